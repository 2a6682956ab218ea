"""Write a classification data set of the aeon package as a .mat file that training.py reads.

    pip install -r requirements.txt -r requirements-data.txt
    python data/from_aeon.py BasicMotions                    # data/BasicMotions.mat
    python training.py --data data/BasicMotions.mat --output-dir BasicMotions

Some sets come with aeon, such as BasicMotions and JapaneseVowels; any other of timeseriesclassification.com aeon downloads,
once, to the folder that --extract-path names. Sequences of equal or unequal length, with any number of channels and
classes, but no missing values; classes are numbered from 0 in the order of their names, numbers by size.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

from load_data import load_data  # noqa: E402
from make_jv_data import write_mat  # noqa: E402


def read_split(name, split, extract_path=None):
    """One half of the set `name`: a list of T×F float64 arrays, and an array of N class names (str)."""
    from aeon.datasets import load_classification
    series, names = load_classification(name, split=split, extract_path=extract_path)
    return [np.ascontiguousarray(np.asarray(x, dtype=np.float64).T) for x in series], np.asarray(names, dtype=str)


def numbered(train, test):
    """Class names as numbers from 0, those of training first; sorted as numbers where all are such."""
    def key(name):
        try:
            return 0, float(name), name
        except ValueError:
            return 1, 0.0, name

    order = sorted(set(train), key=key) + sorted(set(test) - set(train), key=key)
    return [[order.index(name) for name in names] for names in (train, test)]


def main():
    parser = argparse.ArgumentParser(description='Write a classification data set of aeon as a .mat file.')
    parser.add_argument('name', help='of the set, as aeon knows it, such as BasicMotions')
    parser.add_argument('--output', type=Path, help='file to write (default: data/NAME.mat)')
    parser.add_argument('--extract-path', type=Path, help="where aeon keeps what it downloads (default: aeon's choice)")
    args = parser.parse_args()
    path = args.output or FOLDER / f'{args.name}.mat'
    if not path.parent.is_dir():
        parser.error(f'argument --output: {path.parent} is not a folder')
    try:
        import aeon  # noqa: F401
    except ModuleNotFoundError:
        parser.exit(2, 'data/from_aeon.py needs the package aeon: python -m pip install -r requirements-data.txt\n')
    try:
        (train, train_names), (test, test_names) = (read_split(args.name, split, args.extract_path)
                                                    for split in ('train', 'test'))
    except Exception as error:  # aeon raises what its sources and the network happen to raise
        parser.exit(2, f'{args.name}: aeon cannot load it as a classification set ({type(error).__name__}: {error})\n')
    train_labels, test_labels = numbered(train_names, test_names)
    unchecked = path.with_name(f'{path.stem}.unchecked{path.suffix}')
    try:
        write_mat(unchecked, (train, train_labels), (test, test_labels), f'{args.name} (aeon), written by data/from_aeon.py')
        load_data(unchecked, kernel_size=3)
        unchecked.replace(path)
    except (ValueError, OSError) as error:
        parser.exit(2, str(error).replace(str(unchecked), str(path)) + '\n')
    finally:
        unchecked.unlink(missing_ok=True)
    lengths = [len(x) for x in train + test]
    print(f'{path}: {len(train)} training and {len(test)} test sequences of {min(lengths)} to {max(lengths)} steps, '
          f'channels: {train[0].shape[1]}, classes: {max(train_labels) + 1}')


if __name__ == '__main__':
    main()
