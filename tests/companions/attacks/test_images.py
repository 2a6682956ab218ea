"""The experiment on images counts what it says, and its table says what it counted.

    python -m pytest tests/companions/attacks
"""

import json

import numpy as np
import pytest
import torch

from companions.attacks import images as experiment
from companions.attacks.attacks import iterated
from companions.common.images import Images


def make_records(curves):
    """Records of {(bound, attack): {epsilon: [(accuracy, l2_change, readable) of each seed]}}."""
    return [{'seed': seed, 'bound': bound, 'attack': attack, 'epsilon': epsilon, 'accuracy': a,
             'l2_change': change, 'target_kept': 1.0, 'readable': r}
            for (bound, attack), points in curves.items() for epsilon, seeds in points.items()
            for seed, (a, change, r) in enumerate(seeds)]


def test_the_table_shows_what_each_attack_needs():
    weak = {attack: {1: [(0.9, 9, 0.1)] * 2} for attack in experiment.ATTACKS}
    points = {0.1: [(0.8, 1, 1.0), (0.9, 3, 0.98)], 0.2: [(0.4, 2, 0.97), (0.58, 4, 0.95)],
              0.3: [(0.04, 5, 0.9), (0.02, 7, 0.8)]}
    table = experiment.images_table(make_records({
        ('', 'none'): {0: [(0.98, 0, 1.0), (1.0, 0, 0.98)]}, **weak, ('L2', 'PGD'): points}))
    assert '| L2 | PGD | 0.2 | 0.3 | 6.00 | 85 | 0.2 | 49.0 ± 12.7 |' in table
    assert '| L2 | noise |  |  |  |  |  |  |' in table
    assert table.endswith('Unattacked: accuracy 99.0 ± 1.4 %, readable 99.0 %.')


def test_images_count_if_correct_before_and_after(monkeypatch):
    """A model that reads the first pixel, and an attack that sets it."""
    x = torch.zeros(4, 1, 2, 2)
    x[:, 0, 0, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    x[:, 0, 1, 1] = torch.tensor([0.0, 0.0, 0.9, 0.9])
    data = Images('digits', x[[0, 2]], torch.tensor([0, 1]), x, torch.tensor([0, 1, 1, 0]))

    def model(x):  # class 2 is the least likely until the first pixel is set
        return torch.stack([1 - x[:, 0, 0, 0], x[:, 0, 0, 0], 3 * x[:, 0, 0, 0] - 2.5], 1)

    def attack(model, x, y, epsilon):
        x = x.clone()
        x[0, 0, 0, 0] = x[1, 0, 0, 0] = 1  # of two zeros, the second misclassified to begin with
        x[3, 0, 0, 0] = 0  # so is this one
        return x

    monkeypatch.setattr(experiment, 'ATTACKS', {('L2', 'PGD'): attack})
    monkeypatch.setattr(experiment, 'EPSILONS', {'digits': {'L2': (0.5,)}})
    clean, attacked = experiment.attack_images(data, model, 3, 4)
    assert clean['accuracy'] == 0.5 and clean['readable'] == 0.5 and clean['l2_change'] == 0
    assert attacked['accuracy'] == 0.25 and attacked['readable'] == 0.75 and attacked['seed'] == 3
    assert attacked['l2_change'] == 0.5  # of images 0 and 2, correct before, one changed by 1
    assert clean['target_kept'] == 1 and attacked['target_kept'] == 0.5


def test_iterated_is_the_assignments_attack_in_every_bound():
    """A loop around one step, which looks its target up anew; the other one keeps its target."""
    torch.manual_seed(0)
    x, y = torch.rand(20, 1, 8, 8), torch.zeros(20, dtype=torch.long)
    W = torch.randn(64, 10)

    def model(x):
        return x.flatten(1) @ W

    y = model(x).argmax(1)
    for bound, kw in (('unbounded', {}), ('L2', {'norm': 2, 'radius': 0.1}),
                      ('L∞', {'norm': torch.inf, 'radius': 0.1})):
        step = 0.1 / 4 if kw else 0.1
        for name, fixed in (('iterated', False), (experiment.FIXED, True)):
            expected = iterated(model, x, y, step, valid_range=(0, 1), fixed_target=fixed, **kw)
            perturbed = experiment.ATTACKS[bound, name](model, x, y, 0.1)
            assert torch.equal(perturbed, expected)
        assert not torch.equal(perturbed, experiment.ATTACKS[bound, 'iterated'](model, x, y, 0.1))


def run(*arguments):
    experiment.main(experiment.get_args(['--dry-run', '--jobs', '1', *map(str, arguments)]))


def test_dry_run(tmp_path, capsys):
    pytest.importorskip('sklearn')
    run('--output-dir', tmp_path)
    results = json.loads((tmp_path / 'plots' / 'attacks_images.json').read_text())
    assert experiment.images_table(results['runs']) in capsys.readouterr().out
    training, = results['training']
    assert len(training['train_loss']) == 1 and 0 < training['train_loss'][0] < 3
    assert training['seed'] == 0 and training['cpu_seconds'] > 0
    assert {path.name for path in (tmp_path / 'plots').glob('*.png')} == {
        'attacks_images.png', 'attacks_samples.png', 'attacks_smallest.png',
        'attacks_training.png'}


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_on_cuda_the_numbers_are_nearly_those_of_the_cpu():
    pytest.importorskip('sklearn')
    found = {}
    for device in ('cpu', 'cuda'):
        records, model, training = experiment.train_and_attack(
            ('digits', None), 0, epochs=1, width=4, count=100, device=device)
        assert next(model.parameters()).device.type == 'cpu'
        found[device] = training['train_loss'] + [r['accuracy'] for r in records]
    assert found['cuda'] == pytest.approx(found['cpu'], abs=0.1)


def test_dry_run_on_cifar10_where_nothing_is_readable(tmp_path, capsys):
    batches = np.random.default_rng(0).integers(0, 256, (6, 12, 3073), dtype=np.uint8)
    batches[:, :, 0] %= 10
    for name, batch in zip((*(f'data_batch_{k}' for k in range(1, 6)), 'test_batch'), batches):
        (tmp_path / f'{name}.bin').write_bytes(batch.tobytes())
    run('--cifar10', tmp_path, '--output-dir', tmp_path, '--width', 1)
    records = json.loads((tmp_path / 'plots' / 'attacks_images_cifar10.json').read_text())['runs']
    out = capsys.readouterr().out
    assert experiment.images_table(records) in out and 'nan' not in out and 'L∞ | PGD' in out
    assert {r['epsilon'] for r in records if r['bound'] == 'L∞'} == {
        k / 255 for k in (1, 2, 4, 8, 16)}


def test_bad_input_raises_one_sentence(tmp_path, capsys):
    for folder in (tmp_path / 'nowhere', ''):
        with pytest.raises(FileNotFoundError, match='data_batch_1.bin: no such file'):
            run('--cifar10', folder, '--output-dir', tmp_path)
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match=f'--output-dir.*{tmp_path / "file"}'):
        run('--output-dir', tmp_path / 'file')
    with pytest.raises(SystemExit) as end:
        run('--seeds', 0)
    assert end.value.code == 2 and 'argument --seeds' in capsys.readouterr().err
