"""The partitions of the benchmark, and its sentence without aeon."""

import sys

import numpy as np
import pytest

from benchmarks import accuracy
from load_data import UCI_PATH, load_data, sequences_of, targets_of


def test_partitions_are_stratified_and_begin_with_ucis_own():
    train_labels, test_labels = np.repeat([0, 1, 2], 5), np.repeat([0, 1, 2], [7, 2, 4])
    labels = np.concatenate([train_labels, test_labels])
    parts = list(accuracy.partitions(train_labels, test_labels, 6))
    assert np.array_equal(parts[0], np.arange(28) < 15)
    assert all(np.array_equal(np.bincount(labels[part]), [5, 5, 5]) for part in parts)
    assert len({part.tobytes() for part in parts}) == 6


@pytest.mark.parametrize('name', ['best recipe', 'FCN'])
def test_a_saved_fit_is_not_repeated_unless_something_changed(name, tmp_path, monkeypatch):
    train, _ = load_data(UCI_PATH)
    sequences, labels = sequences_of(train), targets_of(train)
    halves = np.arange(270) % 2 == 0
    fresh = np.arange(270) < 100

    def evaluate(part):
        return accuracy.evaluate(name, sequences, labels, part, fresh, 3, 4, tmp_path,
                                 {'epochs': 2})

    first = evaluate(halves)
    model, = tmp_path.iterdir()
    assert model.name.endswith('_partition3_seed4.pt')
    for module, function in ((accuracy.networks, 'fit'), (accuracy, 'train_best_recipe')):
        monkeypatch.setattr(module, function, lambda *_, **__: pytest.fail('fitted again'))
    again = evaluate(halves)
    del first['predict_seconds'], again['predict_seconds']
    assert first == again and (first['partition'], first['seed']) == (3, 4)
    with pytest.raises(pytest.fail.Exception, match='fitted again'):
        evaluate(~halves)


def test_accuracy_is_on_what_was_not_trained_on(tmp_path, monkeypatch):
    train, _ = load_data(UCI_PATH)
    sequences, labels = sequences_of(train), targets_of(train)
    part, fresh = np.arange(270) % 3 > 0, np.arange(270) < 90

    def fit_aeon(name, given, targets, chosen, seed):
        assert given is sequences and targets is labels and chosen is part
        return lambda x: np.where(np.arange(90) < 30, labels[~part], -1), None, 1.0

    monkeypatch.setattr(accuracy, 'fit_aeon', fit_aeon)
    record = accuracy.evaluate('MiniRocket', sequences, labels, part, fresh, 0, 0, tmp_path, {})
    assert record['accuracy'] == pytest.approx(1 / 3) and record['fresh_accuracy'] == 1


def test_without_aeon_it_says_so_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'aeon', None)
    monkeypatch.setattr(accuracy, 'parallel_map', lambda *_: pytest.fail('work was started'))
    with pytest.raises(ValueError, match='aeon: python -m pip install -r requirements-extra.txt'):
        accuracy.main(accuracy.get_args(['--output-dir', str(tmp_path)]))


def test_sequences_get_equal_lengths_in_each_of_four_ways():
    x = np.array([[0, 5], [1, 5], [4, 5], [9, 5]], dtype=np.float32)
    longer = np.zeros((7, 2), dtype=np.float32)
    expected = {'': [0, 1, 4, 9, 0, 0, 0], 'last step repeated': [0, 1, 4, 9, 9, 9, 9],
                'linear interpolation': [0, 0.5, 1, 2.5, 4, 6.5, 9],
                'cubic splines': [0, 0.25, 1, 2.25, 4, 6.25, 9]}
    assert list(expected)[1:] == list(accuracy.PADDINGS)
    for padding, values in expected.items():
        found = accuracy.equal_length([x, longer], padding)
        assert found.shape == (2, 2, 7) and found.dtype == np.float32
        np.testing.assert_allclose(found[0, 0], values, atol=1e-6)
