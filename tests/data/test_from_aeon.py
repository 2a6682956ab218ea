"""Data sets of aeon as .mat files that training.py reads.

    python -m pip install -r requirements-extra.txt
    python -m pytest tests/data/test_from_aeon.py
"""

import numpy as np
import pytest

import training
from data import from_aeon
from load_data import load_data, sequences_of, targets_of
from support.options import get_args

aeon_datasets = pytest.importorskip('aeon.datasets')


def convert(*arguments):
    from_aeon.main(from_aeon.get_args([*map(str, arguments)]))


@pytest.mark.parametrize('name, channels, classes', [('BasicMotions', 6, 4),
                                                     ('PickupGestureWiimoteZ', 1, 10)])
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


def test_training_runs_on_it(tmp_path, capsys):
    path = tmp_path / 'BasicMotions.mat'
    convert('BasicMotions', '--output', path)
    training.main(get_args(['--data', str(path), '--dry-run', '--seeds', '1', '--jobs', '1',
                            '--hidden-size', '8', '--output-dir', str(tmp_path)]))
    assert '| ProxLSTM | 5 | 2 | ' in capsys.readouterr().out


def test_class_names_are_numbered_by_size_or_name():
    assert from_aeon.number_classes(['10', '2', '10', '1'], ['2', '1']) == [[2, 1, 2, 0], [1, 0]]
    assert from_aeon.number_classes(['run', 'badminton'], ['run']) == [[1, 0], [1]]
    assert from_aeon.number_classes(['b'], ['a', 'b']) == [[0], [1, 0]]


@pytest.mark.parametrize('name', ['NoSuchSet', 'CardanoSentiment'])  # the second is for regression
def test_what_is_no_classification_set_is_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(ValueError, match=f'^{name}: '):
        convert(name, '--output', tmp_path / 'set.mat')
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
