"""The best recipe: how it is searched for, tested and saved."""

import argparse
import json

import numpy as np
import pytest
import torch

from companions.best_recipe import experiment
from companions.best_recipe.recipe import INGREDIENTS, BestClassifier, recipe_of
from load_data import UCI_PATH, load_data, sequences_of, targets_of
from tests.helpers import ROOT


def search_with(monkeypatch, score):
    """Search with score(ingredients, mode, epsilon, members) instead of accuracies on two folds."""
    asked = []

    def cross_validate(candidates, *_):
        asked.extend(candidates)
        return {key: np.array(score(*key)) for key in candidates}

    monkeypatch.setattr(experiment, 'cross_validate', cross_validate)
    return experiment.search(None, None, None)[0], asked


def test_the_search_drops_what_is_not_missed_and_keeps_what_is(monkeypatch):
    kept = ('raw values', 'random crop')

    def score(ingredients, *_):  # each of `kept` is worth 0.1 on both folds; the others only noise
        worth = 0.1 * sum(name in ingredients for name in kept)
        return worth + 0.02 * (len(ingredients) % 2), worth - 0.015 * (len(ingredients) % 2)

    chosen, asked = search_with(monkeypatch, score)
    assert chosen == kept
    assert {key[1:] for key in asked if key[0] == kept} == {experiment.PLAIN, *experiment.ADDITIONS}


def test_the_search_keeps_everything_where_everything_counts(monkeypatch):
    chosen, asked = search_with(monkeypatch, lambda names, *_: (len(names), len(names) + 0.5))
    assert chosen == tuple(INGREDIENTS)
    assert len(asked) == 1 + len(INGREDIENTS) + len(experiment.ADDITIONS)


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
    args = argparse.Namespace(folds=5, repeats=2, jobs=1, epochs=1)
    values, = experiment.cross_validate([((), *experiment.PLAIN)], sequences_of(batches),
                                        targets_of(batches), args).values()
    assert len(seen) == len(values) == 10 and all(len(known) == 216 for known in seen)


def run(*arguments):
    experiment.main(experiment.get_args(list(map(str, arguments))))


def test_every_seed_is_trained_saved_and_tested(tmp_path, capsys):
    run('--epochs', 1, '--seeds', 2, '--jobs', 1, '--output-dir', tmp_path)
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
    full = recipe_of(INGREDIENTS)
    monkeypatch.setattr(experiment, 'INGREDIENTS', {'random crop': INGREDIENTS['random crop']})
    monkeypatch.setattr(experiment, 'ADDITIONS', [('ProxLSTM', 1.0, 1), ('plain', None, 2)])
    monkeypatch.setattr('companions.best_recipe.recipe.recipe_of',
                        lambda names: full if names else {**full, 'crop': 1.0})
    run('--tune', '--dry-run', '--jobs', 1, '--output-dir', tmp_path)
    written = json.loads((tmp_path / 'plots' / 'tune_best.json').read_text())
    table = experiment.search_table(written['runs'])
    assert table in capsys.readouterr().out
    assert len(written['runs']) == 2 * len(table.splitlines()[2:])
    assert 'without random crop' in table and 'ProxLSTM, ε = 1 |' in table
    assert '2 models averaged' in table


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
