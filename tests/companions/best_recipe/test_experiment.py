"""The best recipe: how it is searched for, tested and saved."""

import argparse
import json

import numpy as np
import pytest
import torch

from companions.best_recipe import experiment
from companions.best_recipe.recipe import INGREDIENTS, BestClassifier
from load_data import UCI_PATH, load_data, sequences_of, targets_of
from tests.helpers import ROOT


def search_with(monkeypatch, score):
    """Search with score(ingredients) instead of accuracies on two folds."""
    asked = []

    def cross_validate(recipes, *_):
        asked.extend(recipes)
        return {recipe: np.array(score(recipe)) for recipe in recipes}

    monkeypatch.setattr(experiment, 'cross_validate', cross_validate)
    return experiment.search(None, None, None)[0], asked


def test_the_search_drops_what_is_not_missed_and_adds_what_helps(monkeypatch):
    wanted = 'raw values', 'random crop', 'second direction', 'label smoothing 0.1'

    def score(names):  # each of `wanted` is worth 0.1 on both folds; the others only noise
        worth = 0.1 * sum(name in wanted for name in names)
        return worth + 0.02 * (len(names) % 2), worth - 0.015 * (len(names) % 2)

    chosen, asked = search_with(monkeypatch, score)
    assert chosen == wanted
    assert wanted[:2] + ('time warp',) in asked and wanted + ('averaged weights',) in asked


def test_the_search_keeps_everything_where_everything_counts(monkeypatch):
    chosen, asked = search_with(monkeypatch, lambda names: (len(names), len(names) + 0.5))
    assert chosen == tuple(INGREDIENTS) and len(asked) == 1 + len(INGREDIENTS)


def test_a_lead_below_its_standard_error_is_none():
    assert experiment.leads(np.array([0.5, 0.7]), np.array([0.4, 0.4]))
    assert not experiment.leads(np.array([0.3, 0.9]), np.array([0.4, 0.4]))
    assert not experiment.leads(np.array([0.4, 0.4]), np.array([0.4, 0.4]))


def test_held_out_sequences_are_not_in_training(monkeypatch):
    batches, _ = load_data(UCI_PATH)
    seen = []

    def fake_fit(sequences, labels, *_):
        seen.append({x.tobytes() for x in sequences})
        return {x.tobytes() for x in sequences}

    def fake_probabilities(known, sequences, *_):
        assert not known & {x.tobytes() for x in sequences}
        return torch.zeros(len(sequences), 9)

    monkeypatch.setattr(experiment, 'fit', fake_fit)
    monkeypatch.setattr(experiment, 'probabilities', fake_probabilities)
    args = argparse.Namespace(folds=5, repeats=2, jobs=1, dry_run=False)
    values, = experiment.cross_validate([()], sequences_of(batches),
                                        targets_of(batches), args).values()
    assert len(seen) == len(values) == 10 and all(len(known) == 216 for known in seen)


def run(*arguments):
    experiment.main(experiment.get_args(list(map(str, arguments))))


def test_every_seed_is_trained_saved_and_tested(tmp_path, capsys):
    run('--dry-run', '--seeds', 2, '--jobs', 1, '--output-dir', tmp_path)
    out = capsys.readouterr().out
    assert 'seed 1: ' in out and 'the 2 models averaged' in out
    results = json.loads((tmp_path / 'plots' / 'best.json').read_text())
    _, (batch, *_) = load_data(UCI_PATH, 370)
    for seed in (0, 1):
        model = BestClassifier.from_checkpoint(
            tmp_path / 'checkpoints' / 'companions' / f'best_seed{seed}.pt').eval()
        correct = model(batch.inputs, batch.lengths).argmax(1) == batch.targets
        assert correct.float().mean().item() == pytest.approx(results['runs'][seed]['accuracy'])


def test_the_search_is_written_with_its_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, 'START', ('random crop',))
    monkeypatch.setattr(experiment, 'ADDITIONS', ('distillation', 'ProxLSTM, ε = 2'))
    monkeypatch.setattr(experiment, 'leads', lambda *_: True)
    run('--tune', '--dry-run', '--jobs', 1, '--output-dir', tmp_path)
    written = json.loads((tmp_path / 'plots' / 'tune_best.json').read_text())
    table = experiment.search_table(tuple(written['chosen']), written['runs'])
    assert table in capsys.readouterr().out
    rows = table.splitlines()[2:]
    assert len(written['runs']) == 2 * len(rows) == 8
    assert 'without random crop' in rows[1] and rows[2].endswith('added |')
    values = {tuple(r['ingredients']): [] for r in written['runs']}
    for r in written['runs']:
        values[tuple(r['ingredients'])].append(r['accuracy'])
    *before, _ = added = ('random crop', 'distillation', 'ProxLSTM, ε = 2')
    difference = 100 * (np.mean(values[added]) - np.mean(values[tuple(before)]))
    assert f'| {difference:+.2f} ± ' in rows[3] and 'ProxLSTM, ε = 2 |' in rows[3]


@pytest.mark.parametrize('given, words', [
    (['--data', 'missing.mat'], 'missing.mat: no such file'),
    (['--tune', '--folds', '31'], '--folds is 31'),
    (['--output-dir', ROOT / 'README.md'], 'README.md')])
def test_bad_input_is_one_sentence(given, words):
    with pytest.raises((ValueError, OSError), match=words):
        run(*given)


@pytest.mark.parametrize('option', [['--seeds', '0'], ['--folds', '1']])
def test_bad_arguments_end_with_status_2(option, capsys):
    with pytest.raises(SystemExit) as end:
        experiment.get_args(option)
    assert end.value.code == 2 and f'argument {option[0]}' in capsys.readouterr().err
