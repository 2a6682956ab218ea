"""Shoulder exercises as .mat files that training.py reads.

    python -m pip install -r requirements-extra.txt
    python -m pytest tests/data/test_from_seglearn.py
"""

import numpy as np
import pytest

from data import from_seglearn
from load_data import load_data, seen_in_training, sequences_of, targets_of

load_watch = pytest.importorskip('seglearn.datasets').load_watch


def test_a_file_is_parted_by_subject_and_its_classes_are_balanced(tmp_path, capsys):
    from_seglearn.main(from_seglearn.get_args([str(tmp_path)]))
    recordings = load_watch()
    windows = {x.astype(np.float32).tobytes(): (subject, exercise)
               for recording, subject, exercise in zip(recordings['X'], recordings['subject'],
                                                       recordings['y'])
               for x in from_seglearn.cut_windows(recording)}
    expected = {'shoulder.mat': ({1, 2, 3, 4, 5}, {6, 7, 8, 9, 10}),
                'shoulder_tune.mat': ({1, 2, 3}, {4, 5})}
    for name, subjects in expected.items():
        train, test = load_data(tmp_path / name)
        assert not seen_in_training(train, test).any() and len(sequences_of(train)) <= 1000
        for batches, members in zip((train, test), subjects):
            labels = targets_of(batches)
            found = [windows[x.tobytes()] for x in sequences_of(batches)]
            assert {subject for subject, _ in found} == members
            assert labels.tolist() == [exercise for _, exercise in found]
            assert np.bincount(labels).tolist() == [len(members) * 28] * 7
    assert 'shoulder.mat: 980 training and 980 test sequences' in capsys.readouterr().out


def test_a_window_averages_four_samples_to_a_step_and_stays_in_its_recording():
    recording = np.arange(1000.0)[:, None] + np.zeros(6)
    windows = from_seglearn.cut_windows(recording)
    assert len(windows) == 14 and {x.shape for x in windows} == {(50, 6)}
    assert windows[0][0].tolist() == [1.5] * 6 and windows[0][1, 0] == 5.5
    assert windows[-1][-1, 0] == 997.5
    starts = np.array([x[0, 0] for x in windows])
    assert np.ptp(np.diff(starts)) <= 1
