"""Write shoulder exercises, recorded by a watch, as two .mat files that training.py reads.

    python -m data.from_seglearn                  # writes data/shoulder.mat and shoulder_tune.mat
    python training.py --data data/shoulder_tune.mat --output-dir shoulder_tune   # choose epsilon
    python training.py --data data/shoulder.mat --output-dir shoulder

Ten subjects did seven exercises with each arm. The package seglearn includes the 140 recordings
(Burns et al., arXiv:1802.01489), as a pickled array. It needs requirements-extra.txt.

shoulder.mat trains on subjects 1 to 5 and tests on 6 to 10. shoulder_tune.mat is for choosing
settings: it trains on subjects 1 to 3 and holds out 4 and 5. A sequence is a window of four
seconds, 200 samples of six channels (acceleration and angular velocity), of which four samples are
averaged to a step. Each recording is cut into 14 equally spaced windows, which overlap; no subject
is in both sets.
"""

import argparse
from pathlib import Path

import numpy as np

from data.make_jv_data import mat_content
from load_data import DEFAULT_PATH
from support.checkpoints import write
from support.program import import_optional, run_program

FILES = {'shoulder.mat': ((1, 2, 3, 4, 5), (6, 7, 8, 9, 10)),
         'shoulder_tune.mat': ((1, 2, 3), (4, 5))}  # subjects to train on, and to test on
WINDOW, SAMPLES_PER_STEP = 200, 4  # at 50 Hz
WINDOWS = 14                       # of a recording


def cut_windows(recording):
    """Cut float [N, 6] into equally spaced windows, float [50, 6] each."""
    starts = np.linspace(0, len(recording) - WINDOW, WINDOWS).round().astype(int)
    return [recording[start:start + WINDOW].reshape(-1, SAMPLES_PER_STEP, 6).mean(1)
            for start in starts]


def windows_of(recordings, subjects):
    """Return the windows of some subjects, and their labels: the exercises, numbered from 0."""
    sequences, labels = [], []
    for x, exercise, subject in zip(recordings['X'], recordings['y'], recordings['subject']):
        if subject in subjects:
            sequences += cut_windows(x)
            labels += [int(exercise)] * WINDOWS
    return sequences, labels


def main(args):
    recordings = import_optional('seglearn.datasets', 'data/').load_watch()
    for name, parts in FILES.items():
        train, test = (windows_of(recordings, subjects) for subjects in parts)
        write(args.folder / name, mat_content(
            train, test, 'shoulder exercises (seglearn), written by data/from_seglearn.py'))
        print(f'{args.folder / name}: {len(train[0])} training and {len(test[0])} test sequences')


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Write shoulder.mat and shoulder_tune.mat.')
    parser.add_argument('folder', nargs='?', type=Path, default=DEFAULT_PATH.parent,
                        help='where to write (default: %(default)s)')
    return parser.parse_args(argv)


if __name__ == '__main__':
    run_program(main, get_args)
