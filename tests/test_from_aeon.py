"""Data sets of aeon as .mat files that the program reads. Needs aeon:

    pip install -r requirements-data.txt && python -m pytest tests/test_from_aeon.py
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

aeon_datasets = pytest.importorskip('aeon.datasets')
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'data'))

import from_aeon  # noqa: E402
from load_data import load_data, sequences_of, targets_of  # noqa: E402


def convert(*arguments):
    return subprocess.run([sys.executable, ROOT / 'data' / 'from_aeon.py', *arguments], capture_output=True, text=True)


@pytest.mark.parametrize('name, channels, classes', [('BasicMotions', 6, 4), ('PickupGestureWiimoteZ', 1, 10)])
def test_values_lengths_and_classes_are_aeons(tmp_path, name, channels, classes):
    path = tmp_path / 'set.mat'
    done = convert(name, '--output', path)
    assert done.returncode == 0 and f'channels: {channels}, classes: {classes}' in done.stdout, done.stderr
    for split, batches in zip(('train', 'test'), load_data(path)):
        series, names = aeon_datasets.load_classification(name, split=split)
        order = np.argsort([np.shape(x)[1] for x in series], kind='stable')
        sequences = sequences_of(batches)
        assert len(sequences) == len(series) and sequences[0].shape[1] == channels
        for x, i in zip(sequences, order):
            np.testing.assert_array_equal(x, np.asarray(series[i], dtype=np.float32).T)
        pairs = set(zip(targets_of(batches).tolist(), (names[i] for i in order)))
        assert len(pairs) == classes and {number for number, _ in pairs} == set(range(classes))


def test_the_whole_program_runs_on_it(tmp_path):
    path = tmp_path / 'BasicMotions.mat'
    assert convert('BasicMotions', '--output', path).returncode == 0
    done = subprocess.run([sys.executable, ROOT / 'training.py', '--data', path, '--dry-run', '--seeds', '1',
                           '--output-dir', tmp_path], capture_output=True, text=True)
    assert done.returncode == 0 and '| ProxLSTM | 5 | 2 | ' in done.stdout, done.stderr


def test_class_names_are_numbered_by_size_or_name():
    assert from_aeon.numbered(['10', '2', '10', '1'], ['2', '1']) == [[2, 1, 2, 0], [1, 0]]
    assert from_aeon.numbered(['run', 'badminton'], ['run']) == [[1, 0], [1]]
    assert from_aeon.numbered(['b'], ['a', 'b']) == [[0], [1, 0]]


@pytest.mark.parametrize('name', ['NoSuchSet', 'CardanoSentiment'])  # the second one is for regression
def test_what_is_no_classification_set_is_refused_and_nothing_is_written(tmp_path, name):
    done = convert(name, '--output', tmp_path / 'set.mat')
    assert done.returncode == 2 and done.stderr.startswith(f'{name}: ') and 'Traceback' not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_set_that_the_program_could_not_read_is_refused_and_the_old_file_kept(tmp_path, monkeypatch):
    path = tmp_path / 'set.mat'
    path.write_bytes(b'old')
    series = [np.full((5, 2), np.nan)], np.array(['a'])
    monkeypatch.setattr(from_aeon, 'read_split', lambda *_: series)
    monkeypatch.setattr(sys, 'argv', ['from_aeon.py', 'Gaps', '--output', str(path)])
    with pytest.raises(SystemExit) as end:
        from_aeon.main()
    assert end.value.code == 2 and path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]
