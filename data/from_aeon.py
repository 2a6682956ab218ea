"""Write a classification data set of the aeon package as a .mat file that training.py reads.

    python -m data.from_aeon BasicMotions                    # writes data/BasicMotions.mat
    python training.py --data data/BasicMotions.mat --output-dir BasicMotions

It needs requirements-extra.txt. README.md in this folder says which data sets there are.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from data.make_jv_data import mat_content
from load_data import DEFAULT_PATH, load_data
from support.checkpoints import write
from support.program import import_optional, run_program


def read_split(name, split, extract_path):
    """Read 'train' or 'test' of the set `name`: a list of T×F float64 arrays and N class names."""
    datasets = import_optional('aeon.datasets', 'data/')
    try:
        series, names = datasets.load_classification(name, split=split, extract_path=extract_path)
    except Exception as error:  # whatever aeon, its files and the network raise
        raise ValueError(f'{name}: aeon cannot load it as a classification set '
                         f'({type(error).__name__}: {error})') from error
    return [np.ascontiguousarray(np.asarray(x, dtype=np.float64).T) for x in series], list(names)


def number_classes(train, test):
    """Number the class names from 0, those of training first, in the order of value or name."""
    def key(name):
        try:
            return 0, float(name), name
        except ValueError:
            return 1, 0.0, name

    order = sorted(set(train), key=key) + sorted(set(test) - set(train), key=key)
    return [[order.index(name) for name in names] for names in (train, test)]


def main(args):
    path = args.output or DEFAULT_PATH.with_name(f'{args.name}.mat')
    train, train_names = read_split(args.name, 'train', args.extract_path)
    test, test_names = read_split(args.name, 'test', args.extract_path)
    train_labels, test_labels = number_classes(train_names, test_names)
    content = mat_content((train, train_labels), (test, test_labels),
                          f'{args.name} (aeon), written by data/from_aeon.py')
    with tempfile.TemporaryDirectory() as folder:  # an unreadable file must not replace an old one
        unchecked = Path(folder, path.name)
        unchecked.write_bytes(content)
        try:
            load_data(unchecked, kernel_size=3)
        except ValueError as error:
            raise ValueError(str(error).replace(str(unchecked), str(path))) from error
    write(path, content)
    lengths = [len(x) for x in train + test]
    print(f'{path}: {len(train)} training and {len(test)} test sequences of {min(lengths)} to '
          f'{max(lengths)} steps, channels: {train[0].shape[1]}, classes: {max(train_labels) + 1}')


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Write a data set of aeon as a .mat file.')
    parser.add_argument('name', help='of the set in aeon, such as BasicMotions')
    parser.add_argument('--output', type=Path, help='file to write (default: data/NAME.mat)')
    parser.add_argument('--extract-path', type=Path, help='where aeon keeps what it downloads')
    return parser.parse_args(argv)


if __name__ == '__main__':
    run_program(main, get_args)
