"""The best recipe: what its model sees, how its data is varied, how it is searched for, saved and compared.

    python -m pytest tests/test_best.py
"""

import argparse
import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / 'companions'), str(ROOT / 'benchmarks')]

import accuracy as benchmark  # noqa: E402
import best  # noqa: E402
from best import INGREDIENTS, BestClassifier, augmented, fit, probabilities, recipe_of  # noqa: E402
from load_data import load_data, sequences_of, targets_of  # noqa: E402


@pytest.fixture(scope='module')
def train():
    batches, _ = load_data(ROOT / 'data' / 'JV_uci.mat')
    return sequences_of(batches), targets_of(batches)


def test_the_model_reads_each_step_normalised_and_as_it_is():
    x = torch.randn(3, 7, 12)
    features = BestClassifier().features(x)
    assert torch.equal(features, torch.cat([F.normalize(x, dim=2), x], 2))
    louder = BestClassifier().eval()
    lengths = torch.tensor([7, 6, 5])
    assert not torch.allclose(louder(x, lengths), louder(2 * x, lengths))
    assert torch.equal(BestClassifier(1, raw=False).features(x[:, :, :1]), x[:, :, :1])  # not only its sign
    plain = BestClassifier(raw=False).eval()
    torch.testing.assert_close(plain(x, lengths), plain(2 * x, lengths))


def test_a_varied_sequence_is_a_contiguous_piece_moved_by_a_constant():
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    deviation, generator = np.array([1.0, 10.0, 0.0]), np.random.default_rng(1)
    lengths, offsets = set(), []
    for _ in range(200):
        y = augmented(x, deviation, recipe_of(INGREDIENTS), generator)
        assert y.dtype == np.float32
        start = next(s for s in range(21 - len(y)) if np.allclose((y - x[s:s + len(y)]).std(0), 0, atol=1e-5))
        lengths.add(len(y))
        offsets.append((y - x[start:start + len(y)])[0])
    assert lengths == {16, 17, 18, 19, 20}
    np.testing.assert_allclose(np.std(offsets, 0), [0.4, 4, 0], rtol=0.15)
    assert np.array_equal(augmented(x, deviation, recipe_of([]), generator), x)


def test_the_same_seed_gives_the_same_model_and_leaves_the_callers_generator_alone(train):
    _, a = fit(*train, 0, epochs=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    (_, b), (_, other) = (fit(*train, seed, epochs=1) for seed in (0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert not torch.equal(a.conv.weight, other.conv.weight)
    p = probabilities(a, train[0])
    assert torch.allclose(p.sum(1), torch.ones(len(p))) and p.shape == (270, 9)


def search_with(monkeypatch, score):
    """The search, with `score(ingredients, mode, epsilon, members)` in the place of accuracies on two folds."""
    asked = []

    def cross_validate(candidates, *_):
        asked.extend(candidates)
        return {key: np.array(score(*key)) for key in candidates}

    monkeypatch.setattr(best, 'cross_validate', cross_validate)
    return best.search(None, None, None)[0], asked


def test_the_search_drops_what_is_not_missed_and_keeps_what_is(monkeypatch):
    kept = ('raw values', 'random crop')

    def score(ingredients, *_):  # each of `kept` is worth 0.1 on both folds; the others only noise
        worth = 0.1 * sum(name in ingredients for name in kept)
        return worth + 0.02 * (len(ingredients) % 2), worth - 0.015 * (len(ingredients) % 2)

    chosen, asked = search_with(monkeypatch, score)
    assert chosen == kept
    assert {key[1:] for key in asked if key[0] == kept} == {best.PLAIN, *best.ON_TOP}


def test_the_search_keeps_everything_where_everything_counts(monkeypatch):
    chosen, asked = search_with(monkeypatch, lambda ingredients, *_: (len(ingredients), len(ingredients) + 0.5))
    assert chosen == tuple(INGREDIENTS) and len(asked) == 1 + len(INGREDIENTS) + len(best.ON_TOP)


def test_held_out_sequences_are_not_trained_on(train, monkeypatch):
    seen = []

    def fake_fit(sequences, labels, *_):
        seen.append({x.tobytes() for x in sequences})
        return None, {x.tobytes() for x in sequences}

    def fake_probabilities(known, sequences, *_):
        assert not known & {x.tobytes() for x in sequences}
        return torch.zeros(len(sequences), 9)

    monkeypatch.setattr(best, 'fit', fake_fit)
    monkeypatch.setattr(best, 'probabilities', fake_probabilities)
    args = argparse.Namespace(folds=5, repeats=2, jobs=1, epochs=1)
    values, = best.cross_validate([((), *best.PLAIN)], *train, args).values()
    assert len(seen) == len(values) == 10 and all(len(known) == 216 for known in seen)


def program(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['best.py', *map(str, arguments)])
    best.main()


def test_the_program_saves_what_its_docstring_loads(tmp_path, monkeypatch, capsys):
    program(monkeypatch, '--epochs', 1, '--seeds', 2, '--output-dir', tmp_path)
    out = capsys.readouterr().out
    assert 'seed 1: ' in out and 'the 2 models averaged' in out
    snippet = best.__doc__.split(':\n\n    import sys')[1].replace('checkpoints/', f'{tmp_path}/checkpoints/')
    _, (batch, *_) = load_data(ROOT / 'data' / 'JV_uci.mat', 370)
    names = {'inputs': batch.inputs, 'lengths': batch.lengths}
    exec(textwrap.dedent('    import sys' + snippet), names)
    results = json.loads((tmp_path / 'plots' / 'best.json').read_text())
    assert (names['speaker'] == batch.targets).float().mean().item() == pytest.approx(results['runs'][0]['accuracy'])


def test_the_search_is_written_with_its_table(tmp_path, monkeypatch, capsys):
    full = recipe_of(INGREDIENTS)
    monkeypatch.setattr(best, 'INGREDIENTS', {'random crop': INGREDIENTS['random crop']})
    monkeypatch.setattr(best, 'ON_TOP', [('ProxLSTM', 1.0, 1), ('plain', None, 2)])
    monkeypatch.setattr(best, 'recipe_of', lambda names: full if names else {**full, 'crop': 1.0})
    program(monkeypatch, '--tune', '--dry-run', '--jobs', 1, '--output-dir', tmp_path)
    written = json.loads((tmp_path / 'plots' / 'tune_best.json').read_text())
    table = best.search_table(written['runs'])
    assert table in capsys.readouterr().out and len(written['runs']) == 2 * len(table.splitlines()[2:])
    assert 'without random crop' in table and 'ProxLSTM, ε = 1 |' in table and '2 models averaged' in table


@pytest.mark.parametrize('arguments, words', [
    (['--data', 'missing.mat'], 'missing.mat: no such file'), (['--tune', '--folds', '31'], '--folds is 31'),
    (['--seeds', '0'], 'argument --seeds'), (['--output-dir', ROOT / 'README.md'], 'README.md')])
def test_bad_input_is_one_sentence(arguments, words, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        program(monkeypatch, *arguments)
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_partitions_are_stratified_and_begin_with_ucis_own():
    train_labels, test_labels = np.repeat([0, 1, 2], 5), np.repeat([0, 1, 2], [7, 2, 4])
    labels = np.concatenate([train_labels, test_labels])
    parts = list(benchmark.partitions(train_labels, test_labels, 6))
    assert np.array_equal(parts[0], np.arange(28) < 15)
    assert all(np.array_equal(np.bincount(labels[part]), [5, 5, 5]) for part in parts)
    assert len({part.tobytes() for part in parts}) == 6


def test_comparisons_are_paired_by_partition_and_corrected():
    assert benchmark.holm([0.01, 0.04, 0.03, 0.9]) == pytest.approx([0.04, 0.09, 0.09, 0.9])
    rng = np.random.default_rng(0)
    right = {'MiniRocket': 355 + rng.permutation(24) // 2}  # of 370, by partition
    right['MultiRocketHydra'] = right['MiniRocket'] + 1
    right['best recipe'] = right['MiniRocket'] + np.array(2 * [1, 2, 1, -1, 1, 3, 2, 0, 1, 2, -2, 1])
    right['five of it averaged'] = right['MiniRocket'] + 3
    records = [{'classifier': name, 'partition': k, 'accuracy': counts[k] / 370, 'fit_seconds': 1.0, 'predict_seconds': 1.0}
               for name, counts in right.items() for k in rng.permutation(24)]
    compared = benchmark.comparisons(records)
    difference, p = compared['best recipe', 'MiniRocket']
    assert difference == pytest.approx((right['best recipe'] - right['MiniRocket']) / 3.7)
    raw = {pair: wilcoxon(right[pair[0]] - right[pair[1]]).pvalue for pair in compared}  # on counts, whose ties are exact
    assert [p for _, p in compared.values()] == pytest.approx(benchmark.holm(list(raw.values())))
    assert f'{difference.mean():+.2f} ± {difference.std(ddof=1):.2f}; 18 better, 2 equal, 4 worse' in \
        benchmark.accuracy_table(records)
