"""Settings are chosen within the training sets, and what is compared is paired."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from companions.amp import images as experiment
from companions.common import images
from tests.companions.common.test_images import write_gtsrb

GROUP = 'right', 'SGD'


def run(*arguments):
    experiment.main(experiment.get_args(list(map(str, arguments))))


def tuned(steps, lr, epsilon, zeta, accuracies):
    return [{'labels': 'right', 'optimizer': 'SGD', 'inner_iter': steps, 'lr': lr,
             'epsilon': epsilon, 'inner_lr': zeta, 'accuracy': accuracy}
            for accuracy in accuracies]


def test_the_largest_mean_is_chosen_and_the_smallest_of_equals():
    records = [*tuned(1, 0.1, 1.0, 0.3, (0.5, 0.9)), *tuned(1, 0.1, 0.3, 3.0, (0.8, 0.6)),
               *tuned(1, 0.1, 0.3, 1.0, (0.6, 0.8)), *tuned(1, 0.1, 0.1, 1.0, (0.9, 0.1)),
               *tuned(2, 0.1, 0.1, 3.0, (0.9, 0.9))]
    assert experiment.choose(records, *GROUP, 1) == {'lr': 0.1, 'epsilon': 0.3, 'inner_lr': 1.0,
                                                     'inner_iter': 1}


def test_held_out_images_are_not_in_training_and_the_test_set_is_not_used(monkeypatch):
    x, y = torch.arange(20.0)[:, None, None, None], torch.arange(20) % 2
    data = images.Images('digits', x, y, torch.full_like(x, torch.nan), y)
    monkeypatch.setattr(experiment, 'training_set', lambda args, labels, seed: data)

    def fit(args, part, optimizer, candidate, seed):
        assert part.train.flatten().tolist() == [k for k in range(20) if k % 5]
        assert len(part.train_labels) == 16
        return candidate

    def accuracy(model, x, labels):
        return model, x.flatten().tolist(), labels.tolist()

    monkeypatch.setattr(experiment, 'fit', fit)
    monkeypatch.setattr(images, 'accuracy', accuracy)
    found = experiment.validate(None, *GROUP, ['a', 'b'], 0, np.arange(20) % 5 == 0)
    assert found == [(name, [0, 5, 10, 15], [0, 1, 0, 1]) for name in 'ab']


def test_amp_takes_the_learning_rate_that_plain_training_chose(monkeypatch):
    asked = []

    def cross_validate(args, candidates):
        asked.append(candidates)
        return [{'labels': labels, 'optimizer': optimizer, **candidate,
                 'accuracy': 1.0 if candidate['lr'] == 0.03 else 0.5}
                for (labels, optimizer, _), settings in candidates.items()
                for candidate in settings]

    monkeypatch.setattr(experiment, 'cross_validate', cross_validate)
    records = experiment.tune(None)
    assert {c['lr'] for settings in asked[1].values() for c in settings} == {0.03}
    assert all(len(settings) == len(experiment.EPSILONS) * len(experiment.INNER_LRS)
               for settings in asked[1].values())
    assert len(asked[1]) == 3 * len(asked[0]) == 3 * len(experiment.GROUPS)
    assert len(records) == sum(len(c) for candidates in asked for c in candidates.values())


@pytest.fixture
def blobs(monkeypatch):
    """Ten classes of images that are easy to tell apart."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(100) % 10
    x = nn.functional.one_hot(y, 16).float().view(-1, 1, 4, 4)
    data = images.Images('digits', x + 0.1 * torch.rand(x.shape, generator=generator), y, x, y)
    monkeypatch.setattr(images, 'load', lambda *_: data)
    return data


@pytest.mark.parametrize('model', ['mlp', 'cnn'])
def test_a_network_is_trained_and_tested_after_every_epoch(blobs, model):
    args = experiment.get_args(['--epochs', '5', '--per-class', '10', '--model', model,
                                '--batch-size', '10', '--width', '8'])
    settings = {'lr': 0.03, 'epsilon': 0.1, 'inner_lr': 1.0, 'inner_iter': 2}
    found, again, other = (experiment.train_and_test(args, 'right', 'Adam', settings, seed)
                           for seed in (0, 0, 1))
    assert found['test_accuracy'][-1] > 0.6 and len(found['test_accuracy']) == 5
    assert found['train_loss'][-1] < found['train_loss'][0] and len(found['train_loss']) == 5
    assert found['train_loss'] == again['train_loss'] != other['train_loss']
    assert found['seconds'] > 0 and settings.items() <= found.items()


def test_plain_training_is_the_base_optimizer_and_steps_count(blobs):
    """Plain training calls the closure once for a minibatch, N inner steps N + 1 times."""
    args = experiment.get_args(['--epochs', '1', '--per-class', '5', '--batch-size', '50'])
    data = experiment.training_set(args, 'right', 0)
    for steps in experiment.METHODS:
        calls = []

        class Counted(experiment.AMP):
            def step(self, closure):
                return super().step(lambda: calls.append(1) or closure())

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(experiment, 'AMP', Counted)
            model = experiment.fit(args, data, 'SGD', {'lr': 0.1, 'epsilon': 0.1, 'inner_lr': 1.0,
                                                       'inner_iter': steps}, 0)
        assert len(calls) == steps + 1
        plain = images.fit(data, lambda model: torch.optim.SGD(model.parameters(), 0.1, 0.9), 1, 0,
                           50, make_model=lambda: nn.Sequential(
                               nn.Flatten(), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 10)))
        assert torch.equal(model[1].weight, plain[1].weight) == (steps == 0)


def test_a_loss_that_is_not_finite_is_one_sentence(blobs):
    args = experiment.get_args(['--epochs', '9', '--per-class', '5'])
    settings = {'lr': 1e30, 'epsilon': 0.1, 'inner_lr': 1.0, 'inner_iter': 0}
    with pytest.raises(ValueError, match='the loss is not finite: labels right, SGD'):
        experiment.train_and_test(args, 'right', 'SGD', settings, 0)


def compared(steps, group=GROUP, seconds=1.0, gain=0.0):
    return [{'labels': group[0], 'optimizer': group[1], 'inner_iter': steps, 'lr': 0.1,
             'epsilon': 0.3, 'inner_lr': 3.0, 'seed': seed, 'train_loss': [2.0, 1.0],
             'test_accuracy': [0.1, 0.8 + 0.01 * seed + gain * (1 + seed)], 'seconds': seconds}
            for seed in (2, 0, 1)]


def test_the_comparison_is_paired_by_seed_and_corrected(monkeypatch):
    records = [r for group in experiment.GROUPS for steps in experiment.METHODS
               for r in compared(steps, group, gain=0.01 * (steps == 1 and group == GROUP))]
    effects = experiment.effects_of(records[::-1])
    assert len(effects) == 12
    effect = effects[*GROUP, 1]
    assert effect.difference.tolist() == [1, 2, 3] and effect.p_holm == pytest.approx(12 * effect.p)
    table = experiment.comparison_table(records)
    assert ('| right | SGD | AMP, N = 1 | 0.1 | 0.3 | 3 | 83.0 ± 2.0 | +2.0 (-0.5 to +4.5) | 0.89 | '
            '1.00 |') in table
    assert '| right | SGD | plain | 0.1 |  |  | 81.0 ± 1.0 |  |  | 1.00 |' in table


# ------------------------------------------------------------------------------------- programs

@pytest.fixture
def few_candidates(monkeypatch):
    monkeypatch.setattr(experiment, 'LEARNING_RATES', {'SGD': (0.1,), 'Adam': (0.01,)})
    monkeypatch.setattr(experiment, 'EPSILONS', (0.1,))
    images.load.cache_clear()


def check_run(folder, capsys, *arguments, suffix=''):
    run('--dry-run', '--jobs', 1, '--output-dir', folder, '--per-class', 4, *arguments)
    out, plots = capsys.readouterr().out, folder / 'plots'
    content = json.loads((plots / f'amp_images{suffix}.json').read_text())
    tuning = json.loads((plots / f'tune_amp_images{suffix}.json').read_text())['runs']
    assert experiment.comparison_table(content['runs']) in out
    assert all(table in out for table in experiment.tuning_tables(tuning))
    assert (plots / f'amp_images{suffix}.png').exists()
    return content


def test_a_dry_run_on_digits_writes_everything(few_candidates, tmp_path, capsys):
    pytest.importorskip('sklearn')
    content = check_run(tmp_path, capsys)
    assert content['data'] == 'digits' and len(content['runs']) == 16


def test_a_dry_run_on_the_assignments_data(few_candidates, tmp_path, capsys):
    write_gtsrb(tmp_path, 5)
    content = check_run(tmp_path, capsys, '--gtsrb', tmp_path, '--model', 'cnn', '--width', 2,
                        suffix='_gtsrb')
    assert content['data'] == 'GTSRB' and content['model'] == 'cnn'
    assert experiment.get_args(['--cifar10', 'x']).source == ('CIFAR-10', 'x')


def test_without_scikit_learn_it_says_so_before_any_work(tmp_path, monkeypatch):
    for name in ('sklearn', 'sklearn.datasets', 'sklearn.model_selection'):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(experiment, 'parallel_map', lambda *_: pytest.fail('work was started'))
    images.load.cache_clear()
    with pytest.raises(ValueError, match=r'scikit-learn: python -m pip install -r requirements-ex'):
        run('--output-dir', tmp_path)


@pytest.mark.parametrize('given, words', [
    (['--gtsrb', 'nowhere'], 'nowhere: no images, expected'),
    (['--per-class', '1000'], 'class 0 of digits has [0-9]+ training images, expected at least 10'),
    (['--folds', '21'], '--folds is 21, but the smallest class has')])
def test_bad_input_is_one_sentence(given, words, tmp_path):
    pytest.importorskip('sklearn')
    with pytest.raises((ValueError, OSError), match=words):
        run(*given, '--output-dir', tmp_path)


@pytest.mark.parametrize('given, words', [
    (['--folds', '1'], 'argument --folds'), (['--model', 'x'], 'argument --model'),
    (['--cifar10', 'a', '--gtsrb', 'b'], 'not allowed with')])
def test_bad_arguments_end_with_status_2(given, words, capsys):
    with pytest.raises(SystemExit) as end:
        experiment.get_args(given)
    assert end.value.code == 2 and words in capsys.readouterr().err
