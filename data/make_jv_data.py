"""Write data/JV_data.mat and data/JV_uci.mat from UCI Japanese Vowels, which aeon includes.

    python -m data.make_jv_data        # for maintainers: both files are committed

It needs requirements-extra.txt. README.md in this folder describes the two partitions.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from scipy.io import savemat

from load_data import DEFAULT_PATH, UCI_PATH
from support.checkpoints import write
from support.program import import_optional, run_program

SOURCE = 'Japanese Vowels (UCI, CC BY 4.0), written by data/make_jv_data.py'


def uci_split(split):
    """Return 'train' or 'test', stably sorted by length: T×12 float64 arrays and labels 0 to 8."""
    datasets = import_optional('aeon.datasets', 'data/')
    series, speakers = datasets.load_japanese_vowels(split=split)
    order = np.argsort([x.shape[1] for x in series], kind='stable')
    return [np.ascontiguousarray(series[i].T) for i in order], [int(speakers[i]) - 1 for i in order]


def mat_content(train, test, source):
    """Return a .mat file's bytes for (sequences, labels) pairs, in the schema of `load_data`."""
    def row(numbers):
        return np.array([numbers], dtype=np.min_scalar_type(max(numbers)))

    variables = {}
    for name, (sequences, labels) in {'train': train, 'test': test}.items():
        cells = np.empty((1, len(sequences)), dtype=object)
        cells[0, :] = sequences
        variables[f'{name}_data'] = cells
        variables[f'{name}_label'] = row(labels)
        variables[f'{name}_length'] = row([len(x) for x in sequences])
    buffer = io.BytesIO()
    savemat(buffer, variables, do_compression=True)
    header = f'MATLAB 5.0 MAT-file, {source}'.encode()[:116].ljust(116)
    return header + buffer.getvalue()[116:]  # instead of scipy's, which holds the time of writing


def main(args):
    train, test = uci_split('train'), uci_split('test')
    # The assignment's test set begins with the 60 shortest *training* sequences.
    assignment_test = [train[i][:60] + test[i][60:351] for i in range(2)]
    write(args.folder / DEFAULT_PATH.name, mat_content(train, assignment_test, SOURCE))
    write(args.folder / UCI_PATH.name, mat_content(train, test, SOURCE))


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Write JV_data.mat and JV_uci.mat.')
    parser.add_argument('folder', nargs='?', type=Path, default=DEFAULT_PATH.parent)
    return parser.parse_args(argv)


if __name__ == '__main__':
    run_program(main, get_args)
