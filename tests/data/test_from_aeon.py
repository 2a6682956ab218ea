"""Data sets of aeon as .mat files that training.py reads.

    python -m pip install -r requirements-extra.txt
    python -m pytest tests/data/test_from_aeon.py
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data import from_aeon
from load_data import load_data, sequences_of, targets_of

aeon_datasets = pytest.importorskip('aeon.datasets')
ROOT = Path(__file__).resolve().parents[2]


def convert(*arguments):
    from_aeon.main(from_aeon.get_args([*map(str, arguments)]))


@pytest.mark.parametrize('name, channels, classes', [('BasicMotions', 6, 4), ('PickupGestureWiimoteZ', 1, 10)])
def test_values_lengths_and_classes_are_aeons(tmp_path, capsys, name, channels, classes):
    path = tmp_path / 'set.mat'
    convert(name, '--output', path)
    assert f'channels: {channels}, classes: {classes}' in capsys.readouterr().out
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
    convert('BasicMotions', '--output', path)
    done = subprocess.run([sys.executable, ROOT / 'training.py', '--data', path, '--dry-run',
                           '--seeds', '1', '--output-dir', tmp_path],
                          capture_output=True, text=True)
    assert done.returncode == 0 and '| ProxLSTM | 5 | 2 | ' in done.stdout, done.stderr


def test_class_names_are_numbered_by_size_or_name():
    assert from_aeon.number_classes(['10', '2', '10', '1'], ['2', '1']) == [[2, 1, 2, 0], [1, 0]]
    assert from_aeon.number_classes(['run', 'badminton'], ['run']) == [[1, 0], [1]]
    assert from_aeon.number_classes(['b'], ['a', 'b']) == [[0], [1, 0]]


@pytest.mark.parametrize('name', ['NoSuchSet', 'CardanoSentiment'])  # the second is for regression
def test_what_is_no_classification_set_is_refused_and_nothing_is_written(tmp_path, name):
    done = subprocess.run([sys.executable, '-m', 'data.from_aeon', name, '--output',
                           tmp_path / 'set.mat'], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith(f'{name}: ')
    assert 'Traceback' not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_set_that_training_cannot_read_is_refused_and_the_old_file_kept(tmp_path, monkeypatch):
    path = tmp_path / 'set.mat'
    path.write_bytes(b'old')
    series = [np.full((5, 2), np.nan)], ['a']
    monkeypatch.setattr(from_aeon, 'read_split', lambda *_: series)
    with pytest.raises(ValueError, match='holds NaN') as error:
        convert('Gaps', '--output', path)
    assert str(error.value).startswith(f'{path}: ')
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]
