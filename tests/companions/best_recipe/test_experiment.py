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

    def cross_validate(sequences, labels, args, folds, repeats, recipes):
        asked.extend((recipe, folds, repeats) for recipe in recipes)
        return {recipe: np.array(score(recipe)) for recipe in recipes}

    monkeypatch.setattr(experiment, 'cross_validate', cross_validate)
    return experiment.search(None, None, experiment.get_args([]))[0], asked


def test_the_search_drops_what_is_not_missed_and_adds_what_helps(monkeypatch):
    wanted = 'raw values', 'random crop', 'bidirectional LSTM', 'label smoothing 0.1'

    def score(names):  # each of `wanted` is worth 0.1 on both folds; the others only noise
        worth = 0.1 * sum(name in wanted for name in names)
        return worth + 0.02 * (len(names) % 2), worth - 0.015 * (len(names) % 2)

    chosen, asked = search_with(monkeypatch, score)
    assert chosen == wanted
    assert (wanted[:2], 5, 4) in asked and (wanted[:2], 2, 10) in asked
    assert (wanted[:2] + ('time warp',), 2, 10) in asked
    assert (wanted + ('averaged weights',), 2, 10) in asked


def test_the_search_keeps_everything_where_everything_counts(monkeypatch):
    chosen, asked = search_with(monkeypatch, lambda names: (len(names), len(names) + 0.5))
    assert chosen == tuple(INGREDIENTS) and len(asked) == 2 + len(INGREDIENTS)


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
    args = argparse.Namespace(jobs=1, dry_run=False)
    values, = experiment.cross_validate(sequences_of(batches), targets_of(batches), args, 5, 2,
                                        [()]).values()
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


def test_the_search_is_written_with_its_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, 'START', ('random crop',))
    monkeypatch.setattr(experiment, 'ADDITIONS', ('distillation', 'ProxLSTM, ε = 2'))
    monkeypatch.setattr(experiment, 'leads', lambda *_: True)
    run('--tune', '--dry-run', '--jobs', 1, '--output-dir', tmp_path)
    records = json.loads((tmp_path / 'plots' / 'tune_best.json').read_text())['runs']
    out, tables = capsys.readouterr().out, experiment.search_tables(records)
    assert all(table in out for table in tables.values())
    smaller, larger = (table.splitlines()[2:] for table in tables.values())
    assert len(smaller) == 2 and '| without random crop |' in smaller[1]
    assert len(larger) == 3 and '| and ProxLSTM, ε = 2 (added) |' in larger[2]

    def mean(*ingredients):
        return 100 * np.mean([r['accuracy'] for r in records if r['step'] == 'addition' and
                              r['ingredients'] == list(ingredients)])

    added = 'random crop', 'distillation', 'ProxLSTM, ε = 2'
    assert f'| {mean(*added) - mean(*added[:2]):+.2f} ± ' in larger[2]


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
