"""The experiment pairs what it compares, attacks what it says, and ends with one sentence."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from companions.amp import experiment
from companions.common import images


def compared(method, seed, accuracy, loss):
    return {'job': 'sequences', 'method': method, 'seed': seed,
            'history': [0.1] * 5 + [accuracy] * 10, 'loss': loss,
            'loss_around': [2 * loss] * len(experiment.RADII)}


def test_the_comparison_is_paired_by_seed_and_its_losses_are_medians():
    records = [compared('plain', 0, 0.9, 1.0), compared('plain', 1, 0.8, 2.0),
               compared('plain', 2, 0.7, 9.0), compared('AMP', 2, 0.71, 3.0),
               compared('AMP', 1, 0.82, 1.0), compared('AMP', 0, 0.93, 1.0),
               *(compared('SAM', seed, 0.5, 1.0) for seed in (0, 1, 2))]
    table = experiment.comparison_table(records, 'sequences')
    assert '| plain | 80.0 ± 10.0 |  | 80.0 ± 10.0 |  | 2.000 | 4.000 |' in table
    assert '| AMP | 82.0 ± 11.0 | +2.0 ± 1.0 | 82.0 ± 11.0 | +2.0 ± 1.0 | 1.000 | 2.000 |' in table


def test_the_search_is_paired_by_fold():
    records = [{'job': 'digits', 'epsilon': epsilon, 'inner_lr': zeta, 'fold': fold,
                'accuracy': accuracy}
               for epsilon, zeta, values in ((0.0, None, (0.9, 0.8, 0.7)),
                                             (0.1, 'inf', (0.93, 0.82, 0.71)))
               for fold, accuracy in enumerate(values)]
    table = experiment.tuning_table(records[:3] + records[:2:-1], 'digits')
    assert '| SAM | 0.1 | ∞ | 82.0 ± 11.0 | +2.00 ± 0.58 |' in table


def test_images_count_if_correct_before_and_after_the_attack(monkeypatch):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return torch.cat([1 - x.flatten(1)[:, :1], x.flatten(1)[:, :1]], 1) + self.w

    x = torch.tensor([0.0, 0.0, 1.0, 1.0])[:, None, None, None]
    y = torch.tensor([0, 1, 1, 0])
    monkeypatch.setattr(images, 'load', lambda *_: images.Images('digits', x, y, x, y))
    monkeypatch.setattr(images, 'fit', lambda *_, **__: Constant())
    # This attack makes the misclassified ones correct.
    monkeypatch.setattr(experiment, 'pgd', lambda model, x, *_, **__: 1 - x)
    record = experiment.train_on_images(experiment.get_args([]), 'plain', 0)
    assert record['accuracy'] == 0.5 and record['attacked'] == 0


def test_the_loss_around_the_weights():
    w = nn.Linear(2, 1, bias=False)
    w.weight.data = torch.tensor([[3.0, 4.0]])
    found = experiment.loss_around(w, lambda: w.weight.square().sum())  # its gradient: outwards
    assert found['loss'] == pytest.approx(25)
    assert found['loss_around'] == pytest.approx([(5 + r) ** 2 for r in experiment.RADII])
    assert w.weight.tolist() == [[3.0, 4.0]]
    flat = experiment.loss_around(w, lambda: 0 * w.weight.sum())
    assert flat['loss_around'] == [0.0] * len(experiment.RADII)


def test_held_out_images_are_not_in_training(monkeypatch):
    x = torch.arange(20.0)[:, None, None, None]
    data = images.Images('digits', x, torch.arange(20) % 2, x, torch.arange(20) % 2)

    def fit(part, *_, **__):
        assert part.train.flatten().tolist() == [k for k in range(20) if k % 5]
        assert len(part.train_labels) == 16

    def accuracy(model, x, labels):
        return x.flatten().tolist() == [0, 5, 10, 15] and labels.tolist()

    monkeypatch.setattr(images, 'fit', fit)
    monkeypatch.setattr(images, 'accuracy', accuracy)
    monkeypatch.setattr(images, 'load', lambda *_: data)
    held_out = np.arange(20) % 5 == 0
    monkeypatch.setattr(experiment, 'CANDIDATES', [{}])
    found = experiment.validate_on_images(experiment.get_args([]), 0, held_out)
    assert found == [[0, 1, 0, 1]]


def run(*arguments):
    experiment.main(experiment.get_args(list(map(str, arguments))))


@pytest.mark.parametrize('tuned', [False, True])
def test_a_dry_run_writes_everything(tuned, tmp_path, monkeypatch, capsys):
    pytest.importorskip('sklearn')
    monkeypatch.setattr(experiment, 'CANDIDATES',
                        [{'epsilon': 0.0}, {'epsilon': 0.1, 'inner_lr': 'inf'}])
    run('--dry-run', '--jobs', 1, '--output-dir', tmp_path, *['--tune'] * tuned)
    out, plots = capsys.readouterr().out, tmp_path / 'plots'
    records = json.loads((plots / ('tune_amp.json' if tuned else 'amp.json')).read_text())['runs']
    table = experiment.tuning_table if tuned else experiment.comparison_table
    assert {r['job'] for r in records} == {'sequences', 'digits'}
    assert all(table(records, job) in out for job in ('sequences', 'digits'))
    assert (plots / 'amp.png').exists() == (not tuned)


@pytest.mark.parametrize('job', [[], ['images'], ['--tune']])
def test_without_scikit_learn_it_says_so_before_any_work(job, tmp_path, monkeypatch):
    for name in ('sklearn', 'sklearn.datasets', 'sklearn.model_selection'):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(experiment, 'parallel_map', lambda *_: pytest.fail('work was started'))
    monkeypatch.setattr(experiment, 'assignment_models', lambda *_: pytest.fail('work was started'))
    images.load.cache_clear()
    with pytest.raises(ValueError, match=r'scikit-learn: python -m pip install -r requirements-ex'):
        run(*job, '--output-dir', tmp_path)


@pytest.mark.parametrize('given, words', [
    (['images', '--gtsrb', 'nowhere'], 'nowhere: no images, expected'),
    (['sequences', '--tune', '--folds', '31'], '--folds is 31, but the smallest class has 30')])
def test_bad_input_is_one_sentence(given, words, tmp_path):
    with pytest.raises((ValueError, OSError), match=words):
        run(*given, '--output-dir', tmp_path)


@pytest.mark.parametrize('given, words', [
    (['--folds', '1'], 'argument --folds'), (['sequences', '--gtsrb', 'x'], '--gtsrb: only with'),
    (['--cifar10', 'a', '--gtsrb', 'b'], 'not allowed with')])
def test_bad_arguments_end_with_status_2(given, words, capsys):
    with pytest.raises(SystemExit) as end:
        experiment.get_args(given)
    assert end.value.code == 2 and words in capsys.readouterr().err
