"""The committed data files are what data/make_jv_data.py makes. Needs aeon, which nothing else does:

    pip install -r requirements-data.txt && python -m pytest tests/test_make_jv_data.py
"""

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

pytest.importorskip('aeon')
DATA = Path(__file__).resolve().parents[1] / 'data'


def test_rebuilt_files_hold_what_the_committed_ones_hold(tmp_path):
    runpy.run_path(str(DATA / 'make_jv_data.py'))['main'](tmp_path)
    for name in ('JV_data.mat', 'JV_uci.mat'):
        rebuilt, committed = loadmat(tmp_path / name), loadmat(DATA / name)
        assert rebuilt.keys() == committed.keys()
        for variable in ('data', 'label', 'length'):
            for split in ('train', 'test'):
                a, b = rebuilt[f'{split}_{variable}'], committed[f'{split}_{variable}']
                assert a.shape == b.shape and a.dtype == b.dtype
                assert all(np.array_equal(x, y) for x, y in zip(a.flat, b.flat))
