"""Metrics are those computed by hand, runs are reproducible, and the program writes its files."""

import json
import math
import re

import numpy as np
import pytest
import torch

from companions.common import images
from companions.gan import experiment, gan
from companions.gan.evaluation import Evaluator
from companions.gan.gan import generator, uniform_noise
from support.checkpoints import load_checkpoint
from tests.companions.common.test_images import write_mnist
from tests.helpers import ROOT

SETTINGS = {'epochs': 3, 'batch_size': 16, 'lr': 1e-3, 'noise_size': 4, 'widths': (8, 16)}


def bars(count=40):
    """3×3 images in which the row of the class is bright."""
    labels = torch.arange(count) % 3
    x = torch.zeros(count, 1, 3, 3)
    x[torch.arange(count), 0, labels] = 0.9
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    return images.Images('bars', x + 0.1 * noise, labels, x[:12] + 0.05, labels[:12])


def run(*arguments, **settings):
    """Return the record of a run without its duration, and its pictures."""
    checkpoint = experiment.run(*arguments, **settings)
    assert checkpoint['record'].pop('seconds') >= 0
    return checkpoint['record'], checkpoint['pictures']


@pytest.fixture(scope='module')
def evaluator():
    return Evaluator(bars(), count=30, images_seen=2000)


# ----------------------------------------------------------------------------------- evaluation

def test_metrics_by_hand(evaluator, monkeypatch):
    """Of three classes two are predicted."""
    p = torch.tensor([[0.7, 0.2, 0.1]] * 3 + [[0.25, 0.5, 0.25]])
    monkeypatch.setattr(images, 'predict_logits', lambda *_: p.log())
    monkeypatch.setattr(evaluator, 'accuracy', 0.9)
    x = evaluator.data.train[:4].clone()
    x[0, 0, 0, 0] += 2  # two from its own, and farther from any other
    found = evaluator(x)

    def entropy(p):
        return -sum(q * math.log(q) for q in p)

    def nearest(a, b):
        return np.linalg.norm(a[:, None] - b, axis=2).min(1).mean()

    assert found['confidence'] == pytest.approx(0.9 * (3 * 0.7 + 0.5) / 4)
    assert found['conditional_entropy'] == pytest.approx(
        (3 * entropy([0.7, 0.2, 0.1]) + entropy([0.25, 0.5, 0.25])) / 4)
    assert found['marginal_entropy'] == pytest.approx(entropy([0.5875, 0.275, 0.1375]))
    assert found['total_variation'] == pytest.approx((0.75 - 1 / 3 + 1 / 3 - 0.25 + 1 / 3) / 2)
    assert found['memorized'] == 0.75
    x, test, train = (images.flatten(1).numpy()
                      for images in (x, evaluator.test, evaluator.data.train))
    assert found['train_distance'] == pytest.approx(
        nearest(x, train) / nearest(test, train), rel=1e-3)
    assert found['test_distance'] == pytest.approx(
        nearest(test, x) / evaluator.test_to_some.item(), rel=1e-3)


def test_real_images_are_the_reference(evaluator):
    test, training = evaluator.real['test images'], evaluator.real['training images']
    assert test['train_distance'] == pytest.approx(1) and test['memorized'] <= 0.1
    assert training['train_distance'] == pytest.approx(0, abs=0.01) and training['memorized'] == 1
    assert training['test_distance'] == pytest.approx(1) and test['test_distance'] is None
    assert evaluator.accuracy == 1
    assert all(metrics['total_variation'] < 0.2 for metrics in evaluator.real.values())
    assert set(experiment.COLUMNS) == {'discriminator_loss', *test} and set(test) == set(training)
    random = torch.Generator().manual_seed(0)
    noise = {key: torch.rand(getattr(evaluator.data, key).shape, generator=random)
             for key in ('train', 'test')}
    data = evaluator.data._replace(**noise)
    whole = Evaluator(data, count=len(data.train), images_seen=0)  # draws each training image once
    assert whole.test_to_some.item() == pytest.approx(whole.test_to_train.mean().item())


def test_one_image_repeated_is_a_collapse_however_sure_the_classifier(evaluator):
    found = evaluator(evaluator.data.train[:1].expand(30, -1, -1, -1))
    assert found['confidence'] > 0.9 and found['total_variation'] == pytest.approx(2 / 3)
    assert found['marginal_entropy'] == pytest.approx(found['conditional_entropy'], abs=1e-5)
    assert found['test_distance'] > 2


def test_classifier_and_networks_are_not_trained_on_test_images(evaluator):
    """With other test images only accuracy and distances may differ."""
    data = evaluator.data._replace(test=1 - evaluator.data.test,
                                   test_labels=(evaluator.data.test_labels + 1) % 3)
    other = Evaluator(data, count=30, images_seen=2000)
    weights = [e.classifier.state_dict().values() for e in (evaluator, other)]
    assert all(map(torch.equal, *weights))
    (a, pictures), (b, others) = (run(e, 'minimax', 0.5, 0, **SETTINGS) for e in (evaluator, other))
    assert torch.equal(pictures, others) and a['D(x)'] == b['D(x)']


# ------------------------------------------------------------------------------------- training

def test_runs_are_reproducible_and_depend_on_the_seed_alone(evaluator):
    def run_setting(seed, loss='non-saturating', beta1=0.5):
        state = torch.get_rng_state()
        found = run(evaluator, loss, beta1, seed, **SETTINGS)
        assert torch.equal(state, torch.get_rng_state())
        return found

    (record, pictures), (other, _) = run_setting(1), run_setting(2)
    torch.rand(3)
    again, same = run_setting(1)
    assert record == again and torch.equal(pictures, same) and record['D(x)'] != other['D(x)']
    curves = 'D(x)', 'D(G(z))', 'discriminator_loss', 'generator_loss'
    assert [len(record[key]) for key in curves] == [3] * 4
    assert [e['epoch'] for e in record['evaluations']] == [1, 2, 3]
    assert pictures.shape == (4, experiment.SHOWN, 1, 3, 3)
    assert 0 <= pictures.min() and pictures.max() <= 1
    train = evaluator.data.train
    nearest = torch.cdist(pictures[2].flatten(1), train.flatten(1)).argmin(1)
    assert torch.equal(pictures[3], train[nearest])
    pairs = [run_setting(1, *setting)[0] for setting in (('minimax', 0.5), ('non-saturating', 0.9))]
    assert all(r['D(x)'] != record['D(x)'] for r in pairs)
    one_batch = SETTINGS | {'epochs': 1, 'batch_size': 40}
    first = [run(evaluator, loss, beta1, 1, **one_batch)[0]
             for loss in gan.LOSSES for beta1 in (0.5, 0.9)]
    assert len({r['D(G(z))'][0] for r in first}) == 1  # the same initial weights and noise


def test_the_networks_see_images_between_minus_one_and_one(evaluator, monkeypatch):
    seen, step = [], gan.discriminator_step

    def spy(D, G, optimizer, x, z):
        seen.append((x, len(z)))
        return step(D, G, optimizer, x, z)

    monkeypatch.setattr(gan, 'discriminator_step', spy)
    experiment.run(evaluator, 'minimax', 0.5, 0, **SETTINGS | {'epochs': 1})
    x = torch.cat([x for x, _ in seen])
    assert [n for _, n in seen] == [16, 16, 8] and x.shape == (40, 9)
    images = evaluator.data.train.flatten(1)
    torch.testing.assert_close(x.sort(0).values, 2 * images.sort(0).values - 1)


def test_won_and_collapsed_follow_the_stated_criteria(evaluator, monkeypatch):
    def outcome(losses, total_variation):
        values = iter(losses)
        monkeypatch.setattr(gan, 'discriminator_step', lambda *_: (next(values), 0.5, 0.5))
        monkeypatch.setattr(gan, 'generator_step', lambda *_: 1.0)
        monkeypatch.setattr(Evaluator, '__call__', lambda *_: {'total_variation': total_variation})
        settings = SETTINGS | {'epochs': 90, 'batch_size': 40}
        record, _ = run(evaluator, 'minimax', 0.5, 0, **settings)
        epochs = [e['epoch'] for e in record['evaluations']]
        assert len(epochs) == 7 and epochs[0] == 1 and epochs[-1] == 90
        return record['won'], record['collapsed']

    assert outcome([2.0] * 81 + [0.09] * 9, 0.5) == (True, True)  # the last nine epochs of ninety
    assert outcome([0.0] * 81 + [0.9] + [0.05] * 8, 0.49) == (False, False)


def test_a_loss_that_is_not_finite_is_named(evaluator):
    with pytest.raises(ValueError, match='minimax loss not finite: beta1 0.5, seed 0, epoch'):
        experiment.run(evaluator, 'minimax', 0.5, 0, **SETTINGS | {'lr': 1e38})


def test_the_table_pairs_by_seed():
    names = [*experiment.COLUMNS][1:]  # the first is the discriminator's loss

    def record(beta1, seed, value, collapsed):
        return {'loss': 'minimax', 'beta1': beta1, 'seed': seed, 'won': collapsed,
                'collapsed': collapsed, 'discriminator_loss': [9, value],
                'evaluations': [dict.fromkeys(names, 9), dict.fromkeys(names, value)]}

    records = [record(0.5, 0, 1.0, False), record(0.9, 0, 3.0, True),
               record(0.5, 1, 2.0, False), record(0.9, 1, 4.0, False)]
    real = {'test images': {**dict.fromkeys(names, 0.25), 'test_distance': None}}
    lines = experiment.metrics_table(records, real).splitlines()
    assert lines[2].count('1.50 ± 0.71') == 8 and lines[2].endswith('0 of 2 | 0 of 2 |')
    assert lines[3].count('3.50 ± 0.71') == 8 and lines[3].endswith('1 of 2 | 1 of 2 |')
    assert lines[4].count('+2.00 ± 0.00') == 8 and lines[5].count('0.25') == 6
    assert {line.count('|') for line in lines} == {13}


def test_tiles_are_in_rows_with_a_line_between_them():
    rows = torch.arange(6.0).view(2, 3, 1, 1, 1).expand(2, 3, 1, 2, 1)
    assert experiment.tile(rows).tolist() == [
        [0, 0.5, 1, 0.5, 2, 0.5]] * 2 + [[0.5] * 6] + [[3, 0.5, 4, 0.5, 5, 0.5]] * 2 + [[0.5] * 6]


# ---------------------------------------------------------------------------------- the program

def run_experiment(folder, *arguments, name='gan'):
    arguments = '--dry-run', '--jobs', 1, '--output-dir', folder, '--widths', 8, 16, *arguments
    experiment.main(experiment.get_args(list(map(str, arguments))))
    return json.loads((folder / 'plots' / f'{name}.json').read_text())


def test_a_dry_run_writes_every_file(tmp_path, capsys):
    pytest.importorskip('sklearn')
    content = run_experiment(tmp_path)
    records = content['runs']
    settings = [(loss, beta1, 0) for loss in gan.LOSSES for beta1 in (0.5, 0.9)]
    assert [(r['loss'], r['beta1'], r['seed']) for r in records] == settings
    assert content['data'] == 'digits' and content['pixels'] == 64 and content['widths'] == [8, 16]
    assert content['device'] == 'cpu'
    assert experiment.metrics_table(records, content['real']) in capsys.readouterr().out
    assert {p.name for p in (tmp_path / 'plots').iterdir()} == {
        'gan.json', 'gan_grid.png', 'gan_samples.png', 'gan_curves.png'}


def test_a_saved_generator_is_loaded_by_the_lines_on_the_page(evaluator, tmp_path, monkeypatch):
    """And is not trained again by the program, unless with other settings."""
    monkeypatch.setattr(images, 'load', lambda name, folder: bars()._replace(name=name))
    monkeypatch.setattr(experiment, 'save_figure', lambda *_: None)  # faster
    settings = '--side', 28, '--loss', 'non-saturating', '--beta1', 0.5
    content = run_experiment(tmp_path, *settings, name='gan_28')
    page = (ROOT / 'companions' / 'gan' / 'page.md').read_text(encoding='utf-8')
    code, = re.findall(r'```python\n(.*?)```', page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    path = 'checkpoints/companions/gan_28_non-saturating_0.5_seed0.pt'
    assert path in code and names['samples'].shape == (100, 784)
    checkpoint = load_checkpoint(tmp_path / path)
    torch.testing.assert_close(names['samples'], experiment.draw_samples(checkpoint, 100))
    assert checkpoint['record'] == content['runs'][0]

    def train_again(*_, **__):
        raise ValueError('trained again')

    monkeypatch.setattr(experiment, 'run', train_again)
    assert run_experiment(tmp_path, *settings, name='gan_28') == content
    with pytest.raises(ValueError, match='trained again'):
        run_experiment(tmp_path, *settings, '--lr', 0.1, name='gan_28')


def test_the_saved_generator_is_the_trained_one(evaluator):
    """It makes the last row of samples."""
    checkpoint = experiment.run(evaluator, 'minimax', 0.5, 3, **SETTINGS)
    fixed = np.random.SeedSequence(3).generate_state(4).tolist()[3]
    G = generator(**checkpoint['arguments'])
    G.load_state_dict(checkpoint['state_dict'])
    z = uniform_noise(evaluator.count, 4, torch.Generator().manual_seed(fixed))
    samples = (G(z).detach() + 1) / 2
    torch.testing.assert_close(samples[:experiment.SHOWN].view(-1, 1, 3, 3),
                               checkpoint['pictures'][-2])


def test_the_evaluator_runs_on_one_thread_and_sees_resized_images(tmp_path, monkeypatch,
                                                                  two_threads):
    seen = []

    def record(data, *_):
        seen.append((data, torch.get_num_threads()))
        raise ValueError('enough')

    monkeypatch.setattr(experiment, 'Evaluator', record)
    monkeypatch.setattr(images, 'load', lambda name, folder: bars()._replace(name=name))
    with pytest.raises(ValueError, match='enough'):
        run_experiment(tmp_path, '--mnist', tmp_path, '--side', 9)
    (data, threads), = seen
    assert threads == 1 and torch.get_num_threads() == 2
    assert data.train.shape == (40, 1, 9, 9) and data.test.shape == (12, 1, 9, 9)
    assert 0 <= data.train.min() and data.train.max() <= 1
    torch.testing.assert_close(data.train[:, :, 1::3, 1::3], bars().train)


def test_the_program_on_mnist_files(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setattr(experiment, 'save_figure', lambda *_: None)  # faster
    content = run_experiment(tmp_path, '--mnist', tmp_path, '--side', 6, '--beta1', 0,
                             '--loss', 'minimax', name='gan_mnist_6')
    assert content['data'] == 'MNIST scaled to 6×6' and content['pixels'] == 36
    assert [(r['loss'], r['beta1']) for r in content['runs']] == [('minimax', 0)]


def test_a_beta1_of_one_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        experiment.get_args(['--beta1', '0.5', '1'])
    assert end.value.code == 2 and 'argument --beta1: expected values below 1' in (
        capsys.readouterr().err)


def test_defaults_are_those_of_the_assignment():
    args = experiment.get_args([])
    assert args.lr == 1e-3 and args.beta1 == [0.5, 0.9]
    assert args.loss == ['non-saturating', 'minimax']
