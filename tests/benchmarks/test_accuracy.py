"""The partitions of the benchmark, and its sentence without aeon."""

import sys

import numpy as np
import pytest

from benchmarks import accuracy


def test_partitions_are_stratified_and_begin_with_ucis_own():
    train_labels, test_labels = np.repeat([0, 1, 2], 5), np.repeat([0, 1, 2], [7, 2, 4])
    labels = np.concatenate([train_labels, test_labels])
    parts = list(accuracy.partitions(train_labels, test_labels, 6))
    assert np.array_equal(parts[0], np.arange(28) < 15)
    assert all(np.array_equal(np.bincount(labels[part]), [5, 5, 5]) for part in parts)
    assert len({part.tobytes() for part in parts}) == 6


def test_without_aeon_it_says_so_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'aeon', None)
    monkeypatch.setattr(accuracy, 'parallel_map', lambda *_: pytest.fail('work was started'))
    with pytest.raises(ValueError, match='aeon: python -m pip install -r requirements-extra.txt'):
        accuracy.main(accuracy.get_args(['--output', str(tmp_path / 'accuracy.json')]))
