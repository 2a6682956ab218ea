"""Write data/JV_data.mat and data/JV_uci.mat from UCI Japanese Vowels, as the aeon package bundles it.

For maintainers: both files are committed, and nothing else in this project needs aeon.

    pip install aeon && python data/make_jv_data.py        # rewrites both with the same values

README.md in this folder says what the two partitions are.
"""

import io
import sys
from pathlib import Path

import numpy as np
from scipy.io import savemat

SOURCE = 'Japanese Vowels (UCI, CC BY 4.0), written by data/make_jv_data.py'


def uci_split(split):
    """One half of UCI Japanese Vowels, stably sorted by length: T×12 float64 arrays, labels 0–8."""
    from aeon.datasets import load_japanese_vowels
    series, speakers = load_japanese_vowels(split=split)
    order = np.argsort([x.shape[1] for x in series], kind='stable')
    return [np.ascontiguousarray(series[i].T) for i in order], [int(speakers[i]) - 1 for i in order]


def course_partition(train, test):
    """The course's partition: its test set opens with the 60 shortest *training* sequences (see README.md)."""
    return train, tuple(train[i][:60] + test[i][60:351] for i in range(2))


def write_mat(path, train, test, source=SOURCE):
    """Write (sequences, labels) pairs under the course's variable names, with the true lengths beside them."""
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
    header = f'MATLAB 5.0 MAT-file, {source}'.encode()[:116]
    content = header.ljust(116) + buffer.getvalue()[116:]  # scipy's header holds the time of writing
    temporary = path.with_suffix('.tmp')
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def main(folder=Path(__file__).resolve().parent):
    """Write both files into `folder`."""
    train, test = uci_split('train'), uci_split('test')
    write_mat(folder / 'JV_data.mat', *course_partition(train, test))
    write_mat(folder / 'JV_uci.mat', train, test)


if __name__ == '__main__':
    try:
        main()
    except ModuleNotFoundError as error:
        print(f'data/make_jv_data.py needs the package {error.name}: pip install {error.name}', file=sys.stderr)
        sys.exit(2)
