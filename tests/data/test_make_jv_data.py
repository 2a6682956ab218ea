"""The committed data files hold what data/make_jv_data.py writes.

    python -m pip install -r requirements-extra.txt
    python -m pytest tests/data/test_make_jv_data.py
"""

import sys

import numpy as np
import pytest
from scipy.io import loadmat

from data import make_jv_data
from load_data import DEFAULT_PATH, UCI_PATH


def test_rewritten_files_are_the_committed_ones(tmp_path):
    pytest.importorskip('aeon')
    make_jv_data.main(make_jv_data.get_args([str(tmp_path)]))
    for committed_path in DEFAULT_PATH, UCI_PATH:
        rewritten_path = tmp_path / committed_path.name
        rewritten, committed = loadmat(rewritten_path), loadmat(committed_path)
        assert rewritten.keys() == committed.keys()
        for variable in ('data', 'label', 'length'):
            for split in ('train', 'test'):
                a, b = rewritten[f'{split}_{variable}'], committed[f'{split}_{variable}']
                assert a.shape == b.shape and a.dtype == b.dtype
                assert all(np.array_equal(x, y) for x, y in zip(a.flat, b.flat))
        assert rewritten_path.read_bytes()[:128] == committed_path.read_bytes()[:128]


def test_missing_aeon_is_reported_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'aeon', None)
    monkeypatch.setitem(sys.modules, 'aeon.datasets', None)
    with pytest.raises(ValueError, match='needs the package aeon.*requirements-extra.txt'):
        make_jv_data.main(make_jv_data.get_args([str(tmp_path)]))
    assert not list(tmp_path.iterdir())
