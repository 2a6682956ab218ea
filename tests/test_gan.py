"""The networks are the text's, losses and steps what they say, figures those of a hand count; the program ends as it should.

    pip install -r requirements.txt -r requirements-companions.txt
    python -m pytest tests/test_gan.py
"""

import copy
import gzip
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('sklearn')
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'companions'))

import gan  # noqa: E402
import images  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')
SETTINGS = {'epochs': 3, 'batch_size': 16, 'lr': 1e-3, 'dimensions': 4, 'widths': (8, 16)}


def networks(seed=0, pixels=9):
    torch.manual_seed(seed)
    return gan.discriminator(pixels, 8), gan.generator(pixels, 4, 16)


def adam(model):
    return torch.optim.Adam(model.parameters(), 1e-2, betas=(0.5, 0.999))


def copy_of(model):
    return [p.detach().clone() for p in model.parameters()]


def unchanged(model, before):
    return [torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)]


def bars(count=40):
    """Pictures of 3×3, in which the row of the class is bright."""
    labels = torch.arange(count) % 3
    x = torch.zeros(count, 1, 3, 3)
    x[torch.arange(count), 0, labels] = 0.9
    return images.Images('bars', x + 0.1 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)), labels,
                         x[:12] + 0.05, labels[:12])


@pytest.fixture(scope='module')
def judge():
    return gan.Judge(bars(), count=30, images_seen=2000)


# ---------------------------------------------------------------------------------------------- networks and noise

def test_the_networks_have_the_layers_and_the_parameters_of_the_text():
    def count(model):
        return sum(p.numel() for p in model.parameters())

    D, G = gan.discriminator(), gan.generator(dimensions=4)
    assert (count(D), count(G)) == (267_009, 1_858_320)
    assert count(gan.discriminator(64)) == 267_009 - 720 * 256 and count(gan.generator(64, 4)) == 1_858_320 - 720 * 1025
    assert [type(m).__name__ for m in D] == ['Linear', 'LeakyReLU', 'Linear', 'LeakyReLU', 'Linear']
    assert [type(m).__name__ for m in G] == ['Linear', 'ReLU', 'Linear', 'ReLU', 'Linear', 'Tanh']
    assert [m.negative_slope for m in (D[1], D[3])] == [0.01, 0.01] and gan.generator()[0].in_features == 96


def test_shapes_and_ranges():
    D, G = gan.discriminator(), gan.generator()
    z = gan.uniform_noise(50, 96, torch.Generator().manual_seed(0))
    x = G(100 * z)
    assert x.shape == (50, 784) and D(x).shape == (50, 1)
    assert -1 <= x.min() < -0.9 and 0.9 < x.max() <= 1
    with torch.no_grad():
        D[-1].bias += 30
    assert D(x).min() > 1  # a logit, no probability


def test_noise_is_uniform_and_drawn_from_its_own_generator():
    state = torch.get_rng_state()
    z = gan.uniform_noise(5000, 4, torch.Generator().manual_seed(3))
    assert z.shape == (5000, 4) and z.dtype == torch.float32 and -1 <= z.min() < -0.99 and 0.99 < z.max() <= 1
    assert z.mean().item() == pytest.approx(0, abs=0.02) and z.var().item() == pytest.approx(1 / 3, abs=0.01)
    assert torch.equal(z, gan.uniform_noise(5000, 4, torch.Generator().manual_seed(3)))
    assert torch.equal(state, torch.get_rng_state())


# ---------------------------------------------------------------------------------------------- losses

def test_losses_by_hand():
    real, fake = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([[0.0], [-3.0], [1.5]])
    D_real, D_fake = ([1 / (1 + math.exp(-s)) for s in logits.flatten().tolist()] for logits in (real, fake))
    mean = lambda values: sum(values) / 3  # noqa: E731
    assert gan.discriminator_loss(real, fake).item() == pytest.approx(
        -mean(map(math.log, D_real)) - mean(math.log(1 - p) for p in D_fake), rel=1e-5)
    assert gan.generator_loss(fake).item() == pytest.approx(-mean(map(math.log, D_fake)), rel=1e-5)
    assert gan.generator_loss(fake, 'minimax').item() == pytest.approx(mean(math.log(1 - p) for p in D_fake), rel=1e-5)


def test_losses_and_gradients_at_extreme_logits():
    """At ±200 a float32 sigmoid is 0 or 1 and its logarithm may be infinite; the losses are the logits, or 0."""
    high, low = torch.full((4, 1), 200.0), torch.full((4, 1), -200.0)
    assert gan.discriminator_loss(high, low).item() == 0 and gan.discriminator_loss(low, high).item() == 400
    expected = {('non-saturating', 200): (0, 0), ('non-saturating', -200): (200, -1), ('minimax', 200): (-200, -1),
                ('minimax', -200): (0, 0)}
    for (kind, logit), (value, slope) in expected.items():
        logits = torch.full((4, 1), float(logit), requires_grad=True)
        loss = gan.generator_loss(logits, kind)
        loss.backward()
        assert loss.item() == pytest.approx(value) and logits.grad.sum().item() == pytest.approx(slope)


# ---------------------------------------------------------------------------------------------- steps

def test_a_step_of_the_discriminator_lowers_its_loss_and_leaves_the_generator_alone():
    D, G = networks()
    optimizer, before, own = adam(D), copy_of(G), copy_of(D)
    z, x = torch.rand(16, 4), 0.8 + torch.zeros(16, 9)
    with torch.no_grad():
        expected = gan.discriminator_loss(D(x), D(G(z))).item(), D(x).sigmoid().mean().item(), D(G(z)).sigmoid().mean().item()
    found = gan.discriminator_step(D, G, optimizer, x, z)
    assert found == pytest.approx(expected)
    assert all(unchanged(G, before)) and all(p.grad is None for p in G.parameters()) and not any(unchanged(D, own))
    assert gan.discriminator_loss(D(x), D(G(z))) < found[0]


@pytest.mark.parametrize('kind', gan.LOSSES)
def test_a_step_of_the_generator_deceives_better_and_leaves_the_discriminator_alone(kind):
    D, G = networks()
    optimizer, before, own = adam(G), copy_of(D), copy_of(G)
    z = torch.rand(16, 4)
    with torch.no_grad():
        logits = D(G(z))
    assert gan.generator_step(D, G, optimizer, z, kind) == pytest.approx(gan.generator_loss(logits, kind).item())
    assert all(unchanged(D, before)) and all(p.grad is None for p in D.parameters()) and not any(unchanged(G, own))
    assert D(G(z)).mean() > logits.mean()


def test_what_a_step_leaves_behind_does_not_reach_the_next():
    """By turns, each step is the one from the same weights and the same moments with nothing before it."""
    D, G = networks()
    D_optimizer, G_optimizer = adam(D), adam(G)
    x, z = torch.rand(3, 16, 9), torch.rand(6, 16, 4)
    for k in range(3):
        for turn, step, model, optimizer, given in ((0, gan.discriminator_step, D, D_optimizer, (x[k], z[2 * k])),
                                                    (1, gan.generator_step, G, G_optimizer, (z[2 * k + 1],))):
            clean = networks(1)
            for twin, original in zip(clean, (D, G)):
                twin.load_state_dict(original.state_dict())
            fresh = adam(clean[turn])
            fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            step(D, G, optimizer, *given)
            step(*clean, fresh, *given)
            assert all(unchanged(model, copy_of(clean[turn])))


# ---------------------------------------------------------------------------------------------- figures

def test_the_judge_by_hand(judge, monkeypatch):
    """Three classes, of which two come up."""
    p = torch.tensor([[0.7, 0.2, 0.1]] * 3 + [[0.25, 0.5, 0.25]])
    monkeypatch.setattr(images, 'logits', lambda *_: p.log())
    monkeypatch.setattr(judge, 'accuracy', 0.9)
    x = judge.data.train[:4].clone()
    x[0, 0, 0, 0] += 2  # two from its own, and farther from any other
    found = judge(x)
    entropy = lambda p: -sum(q * math.log(q) for q in p)  # noqa: E731
    assert found['confidence'] == pytest.approx(0.9 * (3 * 0.7 + 0.5) / 4)
    assert found['conditional_entropy'] == pytest.approx((3 * entropy([0.7, 0.2, 0.1]) + entropy([0.25, 0.5, 0.25])) / 4)
    assert found['marginal_entropy'] == pytest.approx(entropy([0.5875, 0.275, 0.1375]))
    assert found['total_variation'] == pytest.approx((0.75 - 1 / 3 + 1 / 3 - 0.25 + 1 / 3) / 2)
    assert found['closer'] == 0.75
    held_out, train = judge.held_out.flatten(1).numpy(), judge.data.train.flatten(1).numpy()
    nearest = lambda a, b: np.linalg.norm(a[:, None] - b, axis=2).min(1).mean()  # noqa: E731
    x = x.flatten(1).numpy()
    assert found['nearest'] == pytest.approx(nearest(x, train) / nearest(held_out, train), rel=1e-3)
    assert found['covering'] == pytest.approx(nearest(held_out, x) / judge.reach.item(), rel=1e-3)


def test_real_images_are_their_own_yardstick(judge):
    test, training = judge.real['test images'], judge.real['training images']
    assert test['nearest'] == pytest.approx(1) and test['closer'] <= 0.1 and test['covering'] is None
    assert training['nearest'] == pytest.approx(0, abs=0.01) and training['closer'] == 1
    assert training['covering'] == pytest.approx(1)
    assert judge.accuracy == 1 and all(figures['total_variation'] < 0.2 for figures in judge.real.values())
    assert set(gan.COLUMNS) == set(test) == set(training)
    draws = torch.Generator().manual_seed(0)
    noise = {key: torch.rand(getattr(judge.data, key).shape, generator=draws) for key in ('train', 'test')}
    data = judge.data._replace(**noise)
    whole = gan.Judge(data, count=len(data.train), images_seen=0)  # each training image is taken once
    assert whole.reach.item() == pytest.approx(whole.distances.mean().item())


def test_one_picture_again_and_again_is_a_collapse_however_sure_the_classifier(judge):
    found = judge(judge.data.train[:1].expand(30, -1, -1, -1))
    assert found['confidence'] > 0.9 and found['total_variation'] == pytest.approx(2 / 3)
    assert found['marginal_entropy'] == pytest.approx(found['conditional_entropy'], abs=1e-5) and found['covering'] > 2


def test_the_judge_and_the_networks_see_no_test_image(judge):
    """Other test images, the same networks: only their own accuracy and distances may differ."""
    data = judge.data._replace(test=1 - judge.data.test, test_labels=(judge.data.test_labels + 1) % 3)
    other = gan.Judge(data, count=30, images_seen=2000)
    assert all(map(torch.equal, judge.classifier.state_dict().values(), other.classifier.state_dict().values()))
    (a, pictures), (b, others) = (gan.train(j, 'minimax', 0.5, 0, **SETTINGS) for j in (judge, other))
    assert torch.equal(pictures, others) and a['D(x)'] == b['D(x)']


# ---------------------------------------------------------------------------------------------- training

def test_training_is_reproduced_and_hangs_on_the_seed_alone(judge):
    def run(seed, loss='non-saturating', beta1=0.5):
        state = torch.get_rng_state()
        found = gan.train(judge, loss, beta1, seed, **SETTINGS)
        assert torch.equal(state, torch.get_rng_state())
        return found

    (record, pictures), (other, _) = run(1), run(2)
    torch.rand(3)
    again, same = run(1)
    assert record == again and torch.equal(pictures, same) and record['D(x)'] != other['D(x)']
    assert [len(record[key]) for key in ('D(x)', 'D(G(z))', 'discriminator_loss', 'generator_loss')] == [3] * 4
    assert [e['epoch'] for e in record['evaluations']] == [1, 2, 3] and pictures.shape == (4, gan.KEPT, 1, 3, 3)
    assert 0 <= pictures.min() and pictures.max() <= 1
    nearest = torch.cdist(pictures[2].flatten(1), judge.data.train.flatten(1)).argmin(1)
    assert torch.equal(pictures[3], judge.data.train[nearest])
    pairs = [run(1, *setting)[0] for setting in (('minimax', 0.5), ('non-saturating', 0.9))]
    assert all(r['D(x)'] != record['D(x)'] for r in pairs)
    one_batch = SETTINGS | {'epochs': 1, 'batch_size': 40}
    first = [gan.train(judge, loss, beta1, 1, **one_batch)[0] for loss in gan.LOSSES for beta1 in (0.5, 0.9)]
    assert len({r['D(G(z))'][0] for r in first}) == 1  # the same weights and noise to begin with


def test_the_networks_see_images_between_minus_one_and_one(judge, monkeypatch):
    seen = []
    step = gan.discriminator_step
    monkeypatch.setattr(gan, 'discriminator_step', lambda D, G, o, x, z: seen.append((x, len(z))) or step(D, G, o, x, z))
    gan.train(judge, 'minimax', 0.5, 0, **SETTINGS | {'epochs': 1})
    x = torch.cat([x for x, _ in seen])
    assert [n for _, n in seen] == [16, 16, 8] and x.shape == (40, 9)
    torch.testing.assert_close(x.sort(0).values, 2 * judge.data.train.flatten(1).sort(0).values - 1)


def test_won_and_collapsed_are_told_by_the_stated_criteria(judge, monkeypatch):
    def run(losses, total_variation):
        values = iter(losses)
        monkeypatch.setattr(gan, 'discriminator_step', lambda *_: (next(values), 0.5, 0.5))
        monkeypatch.setattr(gan, 'generator_step', lambda *_: 1.0)
        monkeypatch.setattr(judge.__class__, '__call__', lambda *_: {'total_variation': total_variation})
        record, _ = gan.train(judge, 'minimax', 0.5, 0, **SETTINGS | {'epochs': 90, 'batch_size': 40})
        return record['won'], record['collapsed']

    assert run([2.0] * 81 + [0.09] * 9, 0.5) == (True, True)  # the last nine epochs of ninety
    assert run([0.0] * 81 + [0.9] + [0.05] * 8, 0.49) == (False, False)


def test_a_loss_that_is_no_longer_finite_is_named(judge):
    with pytest.raises(ValueError, match='minimax loss, beta1 0.5, seed 0: no longer finite in epoch'):
        gan.train(judge, 'minimax', 0.5, 0, **SETTINGS | {'lr': 1e38})


def test_epochs_that_are_judged():
    assert gan.judged(1) == [1] and gan.judged(2) == [1, 2] and len(gan.judged(80)) == 7
    assert gan.judged(80)[0] == 1 and gan.judged(80)[-1] == 80


def test_the_table_pairs_by_seed():
    def record(beta1, seed, value, collapsed):
        return {'loss': 'minimax', 'beta1': beta1, 'seed': seed, 'won': collapsed, 'collapsed': collapsed,
                'discriminator_loss': [9, value],
                'evaluations': [dict.fromkeys(gan.COLUMNS, 9), dict.fromkeys(gan.COLUMNS, value)]}

    records = [record(0.5, 0, 1.0, False), record(0.9, 0, 3.0, True), record(0.5, 1, 2.0, False), record(0.9, 1, 4.0, False)]
    lines = gan.table(records, {'test images': {**dict.fromkeys(gan.COLUMNS, 0.25), 'covering': None}}).splitlines()
    assert lines[2].count('1.50 ± 0.71') == 8 and lines[2].endswith('0 of 2 | 0 of 2 |')
    assert lines[3].count('3.50 ± 0.71') == 8 and lines[3].endswith('1 of 2 | 1 of 2 |')
    assert lines[4].count('+2.00 ± 0.00') == 8 and lines[5].count('0.25') == 6
    assert {line.count('|') for line in lines} == {13}


# ---------------------------------------------------------------------------------------------- data

def idx(values):
    return struct.pack(f'>HBB{values.ndim}I', 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def mnist(tmp_path):
    rng = np.random.default_rng(0)
    files = {f'{part}-{kind}': rng.integers(0, high, size, dtype=np.uint8) for part, n in (('train', 7), ('t10k', 3))
             for kind, high, size in (('images-idx3-ubyte', 256, (n, 5, 4)), ('labels-idx1-ubyte', 10, (n,)))}
    for name, values in files.items():
        (tmp_path / name).write_bytes(idx(values))
    return tmp_path, files


def test_mnist_is_read_plain_and_packed(mnist):
    folder, files = mnist
    data = images.mnist(folder)
    assert data.train.shape == (7, 1, 5, 4) and data.test.shape == (3, 1, 5, 4)
    assert data.train.dtype == torch.float32 and data.train_labels.dtype == torch.int64
    assert data.train[6, 0, 4, 3].item() == pytest.approx(files['train-images-idx3-ubyte'][6, 4, 3] / 255)
    assert data.test_labels.tolist() == files['t10k-labels-idx1-ubyte'].tolist()
    for name in files:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / f'{name}.gz').write_bytes(gzip.compress(content))
    assert all(torch.equal(a, b) for a, b in zip(data[1:], images.mnist(folder)[1:]))


@pytest.mark.parametrize('name, change, words', [
    ('train-images-idx3-ubyte', lambda c: c[:-1], 'not an idx file of unsigned bytes in 3 dimensions, or not all of it'),
    ('train-images-idx3-ubyte', lambda c: c + b'0', 'not an idx file'),
    ('t10k-images-idx3-ubyte', lambda c: c[:6], 'not an idx file'),
    ('train-images-idx3-ubyte', lambda c: c[:4] + bytes(4) + c[8:16], 'not an idx file'),
    ('t10k-images-idx3-ubyte', lambda c: idx(np.zeros((3, 5, 5), np.uint8)), '5×4 pixels for training, of 5×5 for the test'),
    ('t10k-labels-idx1-ubyte', lambda c: c[:2] + b'\x0d' + c[3:], 'not an idx file of unsigned bytes in 1 dimension, or'),
    ('train-labels-idx1-ubyte', lambda c: idx(np.zeros(6, np.uint8)), '6 labels, but 7 images in train-images-idx3-ubyte'),
    ('train-labels-idx1-ubyte', None, 'no such file, nor with .gz')])
def test_a_damaged_file_of_mnist_is_named(name, change, words, mnist):
    folder, _ = mnist
    content = (folder / name).read_bytes()
    (folder / name).unlink() if change is None else (folder / name).write_bytes(change(content))
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        images.mnist(folder)
    assert name in str(error.value) or str(folder) in str(error.value)


@pytest.mark.parametrize('damage', [
    lambda c: c[:-9], lambda c: c[:12] + b'???' + c[15:], lambda c: c[:-8] + bytes(8), lambda c: b'PK'])
def test_a_damaged_gz_is_named(damage, mnist):
    folder, _ = mnist
    path = folder / 'train-images-idx3-ubyte'
    path.with_name(f'{path.name}.gz').write_bytes(damage(gzip.compress(path.read_bytes())))
    path.unlink()
    with pytest.raises(ValueError, match='train-images-idx3-ubyte.gz: damaged'):
        images.mnist(folder)


def test_enlarged_images_keep_their_range_and_what_they_show():
    data = gan.enlarged(bars(), 9)
    assert data.train.shape == (40, 1, 9, 9) and data.test.shape == (12, 1, 9, 9)
    assert 0 <= data.train.min() and data.train.max() <= 1
    torch.testing.assert_close(data.train[:, :, 1::3, 1::3], bars().train)


# ---------------------------------------------------------------------------------------------- the program

def program(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['gan.py', *map(str, arguments)])
    gan.main()


def test_the_program_in_little(tmp_path, monkeypatch, capsys):
    program(monkeypatch, '--dry-run', '--jobs', 1, '--output-dir', tmp_path, '--widths', 8, 16)
    content = json.loads((tmp_path / 'plots' / 'gan.json').read_text())
    records = content['runs']
    settings = [(loss, beta1, 0) for loss in gan.LOSSES for beta1 in (0.5, 0.9)]
    assert [(r['loss'], r['beta1'], r['seed']) for r in records] == settings
    assert content['data'] == 'digits' and content['pixels'] == 64 and content['widths'] == [8, 16]
    assert gan.table(records, content['real']) in capsys.readouterr().out
    assert {p.name for p in (tmp_path / 'plots').iterdir()} == {
        'gan.json', 'gan_samples.png', 'gan_curves.png', 'gan_figures.png'}


def test_the_judge_does_not_depend_on_the_number_of_cores(tmp_path, monkeypatch):
    threads = []

    def look(**_):
        threads.append(torch.get_num_threads())
        raise ValueError('enough')

    monkeypatch.setattr(gan, 'Judge', look)
    torch.set_num_threads(2)
    with pytest.raises(SystemExit):
        program(monkeypatch, '--dry-run', '--jobs', 1, '--output-dir', tmp_path)
    assert threads == [1] and torch.get_num_threads() == 2


def test_the_program_on_mnist_files(mnist, tmp_path, monkeypatch, capsys):
    folder, _ = mnist
    monkeypatch.setattr(gan, 'save_figure', lambda *_: None)  # quicker
    program(monkeypatch, '--dry-run', '--jobs', 1, '--output-dir', tmp_path, '--widths', 8, 16, '--mnist', folder, '--side', 6,
            '--beta1', 0, '--loss', 'minimax')
    content = json.loads((tmp_path / 'plots' / 'gan.json').read_text())
    assert content['data'] == 'MNIST' and content['pixels'] == 36
    assert [(r['loss'], r['beta1']) for r in content['runs']] == [('minimax', 0)]


def test_defaults_are_those_of_the_text():
    _, args = gan.get_args([])
    assert (args.lr, args.beta1, args.loss) == (1e-3, [0.5, 0.9], ['non-saturating', 'minimax'])


@pytest.mark.parametrize('given, words', [
    (['--mnist', 'nowhere'], 'train-images-idx3-ubyte: no such file'), (['--beta1', '1'], 'argument --beta1'),
    (['--loss', 'other'], 'argument --loss'), (['--epochs', '0'], 'argument --epochs'), (['--lr', '0'], 'argument --lr'),
    (['--output-dir', ROOT / 'README.md'], 'README.md')])
def test_bad_input_is_one_sentence(given, words, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        program(monkeypatch, *given)
    assert end.value.code == 2 and words in capsys.readouterr().err
