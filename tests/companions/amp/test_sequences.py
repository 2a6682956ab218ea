"""The comparison on sequences is paired, and measures the loss around the weights."""

import json

import pytest
import torch
from torch import nn

from companions.amp import sequences


def compared(method, seed, accuracy, loss):
    return {'method': method, 'seed': seed, 'history': [0.1] * 5 + [accuracy] * 10, 'loss': loss,
            'losses': [loss] * 15, 'seconds': 7.0 + seed,
            'loss_around': [2 * loss] * len(sequences.RADII)}


def test_the_comparison_is_paired_by_seed_and_its_losses_are_medians():
    records = [compared('plain', 0, 0.9, 1.0), compared('plain', 1, 0.8, 2.0),
               compared('plain', 2, 0.7, 9.0), compared('AMP', 2, 0.71, 3.0),
               compared('AMP', 1, 0.82, 1.0), compared('AMP', 0, 0.93, 1.0),
               *(compared('SAM', seed, 0.5, 1.0) for seed in (0, 1, 2))]
    table = sequences.comparison_table(records)
    assert '| plain | 80.0 ± 10.0 |  | 80.0 ± 10.0 |  | 2.000 | 4.000 | 4.000 | 4.000 | 8.0 |' in table
    assert '| AMP | 82.0 ± 11.0 | +2.0 ± 1.0 | 82.0 ± 11.0 | +2.0 ± 1.0 | 1.000 | 2.000 | 2.000 | 2.000 | 8.0 |' in table


def test_the_search_is_paired_by_fold():
    records = [{'epsilon': epsilon, 'inner_lr': zeta, 'fold': fold, 'accuracy': accuracy}
               for epsilon, zeta, values in ((0.0, None, (0.9, 0.8, 0.7)),
                                             (0.1, 'inf', (0.93, 0.82, 0.71)))
               for fold, accuracy in enumerate(values)]
    table = sequences.tuning_table(records[:3] + records[:2:-1])
    assert '| SAM | 0.1 | ∞ | 82.0 ± 11.0 | +2.00 ± 0.58 |' in table


def test_the_loss_around_the_weights():
    w = nn.Linear(2, 1, bias=False)
    w.weight.data = torch.tensor([[3.0, 4.0]])
    found = sequences.loss_around(w, lambda: w.weight.square().sum())  # its gradient: outwards
    assert found['loss'] == pytest.approx(25)
    assert found['loss_around'] == pytest.approx([(5 + r) ** 2 for r in sequences.RADII])
    assert w.weight.tolist() == [[3.0, 4.0]]
    flat = sequences.loss_around(w, lambda: 0 * w.weight.sum())
    assert flat['loss_around'] == [0.0] * len(sequences.RADII)


def run(*arguments):
    sequences.main(sequences.get_args(list(map(str, arguments))))


@pytest.mark.parametrize('tuned', [False, True])
def test_a_dry_run_writes_everything(tuned, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sequences, 'CANDIDATES',
                        [{'epsilon': 0.0}, {'epsilon': 0.1, 'inner_lr': 'inf'}])
    run('--dry-run', '--jobs', 1, '--output-dir', tmp_path, *['--tune'] * tuned)
    out, plots = capsys.readouterr().out, tmp_path / 'plots'
    name = 'tune_amp_sequences' if tuned else 'amp_sequences'
    records = json.loads((plots / f'{name}.json').read_text())['runs']
    assert (sequences.tuning_table if tuned else sequences.comparison_table)(records) in out
    assert (plots / 'amp_sequences.png').exists() == (not tuned)


def test_the_device_reaches_the_training(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(sequences, 'assignment_models', lambda *args: seen.append(args[-1]))
    monkeypatch.setattr(sequences, 'amp_models', lambda *args: seen.append(args[-1]) or {})
    args = sequences.get_args(['--dry-run', '--output-dir', str(tmp_path)])
    args.device = 'elsewhere'
    assert sequences.compare(args) == [] and seen == ['elsewhere'] * 2


def test_bad_input_is_one_sentence(tmp_path, capsys):
    with pytest.raises(ValueError, match='--folds is 31, but the smallest class has 30'):
        run('--tune', '--folds', '31', '--output-dir', tmp_path)
    for given in (['--folds', '1'], ['--device', 'abacus']):
        with pytest.raises(SystemExit) as end:
            sequences.get_args(given)
        assert end.value.code == 2 and f'argument {given[0]}' in capsys.readouterr().err
