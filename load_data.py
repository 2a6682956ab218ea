"""Read a `.mat` file of labelled sequences into length-sorted, zero-padded minibatches.

    python load_data.py                       # what data/JV_data.mat holds
    python load_data.py data/JV_uci.mat       # or any other file of the schema that load_data() describes
"""

import argparse
import io
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.io import loadmat
from scipy.io.matlab import matfile_version

VARIABLES = [f'{split}_{part}' for split in ('train', 'test') for part in ('data', 'label', 'length')]
DEFAULT_PATH = Path(__file__).resolve().parent / 'data' / 'JV_data.mat'


class Batch(NamedTuple):
    """A minibatch of B sequences of F features, padded to the T steps of the longest."""
    inputs: torch.Tensor   # float32 [B, T, F], zero after each sequence's own length
    targets: torch.Tensor  # int64 [B], classes counted from 0
    lengths: torch.Tensor  # int64 [B], steps before the padding


def load_data(path=DEFAULT_PATH, batch_size=27, kernel_size=1):
    """Read training and test minibatches from a MATLAB 5–7 file.

    The file holds, for each of `train` and `test`,

    * `train_data`: a cell row or column of N numeric T×F matrices, one sequence each; or one padded N×T×F array
      (MATLAB drops a last dimension of 1, so N×T stands for one feature);
    * `train_label`: N whole numbers, 0 to C−1 or 1 to C, each of which occurs in training;
    * `train_length` (optional): N step counts. Without it, all-zero steps at a sequence's end are padding.

    Sequences are sorted stably by length and cut, in that order, into minibatches of `batch_size` (the last one may
    be smaller), each padded to its own longest.

    Returns `(train, test)`, two lists of `Batch` in ascending length.

    Raises FileNotFoundError or ValueError with one sentence that names the file and the variable: if the file is
    missing, damaged or not such a file; for a missing variable, a wrong number of labels or lengths, a label out of
    range, sequences that differ in their features, an empty or all-zero sequence, NaN or infinity; and for a sequence
    shorter than `kernel_size`, which a convolution without padding could not read.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}, expected at least 1')
    variables = _read_mat(path)
    splits = {name: _read_split(path, variables, name, kernel_size) for name in ('train', 'test')}

    features = splits['train'][0][0].shape[1]
    for name, (sequences, _) in splits.items():
        for i, x in enumerate(sequences, start=1):
            if x.shape[1] != features:
                raise ValueError(f"{path}: sequence {i} of '{name}_data' has {x.shape[1]} features, expected {features} "
                                 f"as in the first sequence of 'train_data'")

    train_labels = splits['train'][1]
    first = train_labels.min()
    classes = np.unique(train_labels)
    if first not in (0, 1) or len(classes) != classes[-1] - first + 1:
        raise ValueError(f"{path}: 'train_label' must use every whole number from 0 or 1 up to its largest, "
                         f"found {_summary(classes)}")
    strangers = np.setdiff1d(splits['test'][1], classes)
    if len(strangers):
        raise ValueError(f"{path}: 'test_label' is {_summary(strangers)}, out of the range {first} to {classes[-1]} "
                         f"of 'train_label'")

    return tuple(make_batches(sequences, labels - first, batch_size) for sequences, labels in splits.values())


def make_batches(sequences, labels, batch_size):
    """Sort float32 [T, F] arrays stably by length, cut them into minibatches and pad each to its own longest.

    `labels` are N class numbers counted from 0. Returns a list of `Batch`.
    """
    order = np.argsort([len(x) for x in sequences], kind='stable')
    batches = []
    for start in range(0, len(order), batch_size):
        members = order[start:start + batch_size]
        inputs = torch.nn.utils.rnn.pad_sequence([torch.tensor(sequences[i]) for i in members], batch_first=True)
        targets = torch.tensor([int(labels[i]) for i in members])
        lengths = torch.tensor([len(sequences[i]) for i in members])
        batches.append(Batch(inputs, targets, lengths))
    return batches


def sequences_of(batches):
    """The sequences of a list of `Batch`, in order, without their padding: a list of float32 [T, F] arrays."""
    return [x[:n].numpy() for batch in batches for x, n in zip(batch.inputs, batch.lengths)]


def targets_of(batches):
    """The classes of a list of `Batch`, in order: an int64 array."""
    return torch.cat([batch.targets for batch in batches]).numpy()


def seen_in_training(train, test):
    """Which test sequences also occur, value for value, in training: bool [number of test sequences], in test order."""
    known = {(x.shape, x.tobytes()) for x in sequences_of(train)}
    return torch.tensor([(x.shape, x.tobytes()) in known for x in sequences_of(test)], dtype=torch.bool)


def _read_mat(path):
    """The variables of a MATLAB 5–7 file, by name."""
    if not Path(path).exists():
        raise FileNotFoundError(f'{path}: no such file, expected a MATLAB .mat file')
    try:
        major, _ = matfile_version(str(path), appendmat=False)
        variables = None
        if major == 1:
            content = Path(path).read_bytes()
            _check_variables(content[128:], '<' if content[126:128] == b'IM' else '>')
            variables = loadmat(io.BytesIO(content), variable_names=VARIABLES)
    except _Unsuitable as error:
        raise ValueError(f'{path}: {error}') from error
    except Exception as error:  # scipy lets many kinds escape from a damaged file
        raise ValueError(f'{path}: damaged, unreadable or not a MATLAB .mat file ({type(error).__name__})') from error
    if major == 2:
        raise ValueError(f"{path}: a MATLAB v7.3 file, expected v5 to v7; save it again with save(…, '-v7')")
    if variables is None:
        raise ValueError(f'{path}: not a MATLAB v5 to v7 .mat file')
    return variables


# Bytes an item of each numeric type takes in a file of MATLAB's level 5; the types of compressed and matrix elements; and
# the classes of matrices ("MAT-File Format", The MathWorks). Texts are of type 4 or 16 to 18.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
_COMPRESSED, _MATRIX = 15, 14
_CELL, _CHAR, _NUMERIC = 1, 4, range(6, 16)


class _Unsuitable(ValueError):
    """A whole file, but not of the schema."""


def _check_variables(content, order):
    """Walk through the elements of a file, because scipy's reader crashes on some damaged ones.

    Compressed ones are compared with their checksums. Variables that are not ours are not read, hence not looked into.
    Raises ValueError or zlib.error.
    """
    for kind, body in _elements(content, order):
        if kind == _COMPRESSED:
            _check_variables(zlib.decompress(body), order)
        else:
            _check_matrix(kind, body, order)


def _check_matrix(kind, body, order, variable=None):
    if kind != _MATRIX:
        raise ValueError(f'an element of type {kind}, expected a matrix')
    if not body:  # an empty cell
        return
    (_, flags), (_, dims), (_, name), *parts = _elements(body, order)
    if variable is None:
        variable = bytes(name).decode('latin-1')
        if variable not in VARIABLES:
            return
    flags, = struct.unpack(order + 'I', flags[:4])
    matrix_class, is_complex = flags & 255, bool(flags & 0x800)
    if matrix_class == _CELL:
        for kind, part in parts:
            _check_matrix(kind, part, order, variable)
    elif matrix_class in _NUMERIC:
        count = math.prod(struct.unpack(order + f'{len(dims) // 4}i', dims))
        if len(parts) != 1 + is_complex or any(len(part) != count * _SIZES.get(kind, 0) for kind, part in parts):
            raise ValueError('a matrix of another size than its own dimensions')
    elif matrix_class == _CHAR:
        if any(kind not in (*_SIZES, 16, 17, 18) for kind, _ in parts):
            raise ValueError('a text that is none')
    else:
        kinds = {2: 'a struct', 3: 'an object', 5: 'a sparse matrix'}
        raise _Unsuitable(f"'{variable}' is or holds {kinds.get(matrix_class, 'something else')}, expected numbers, or a "
                          f"cell array of matrices")


def _elements(content, order):
    """(type, content) of each element in `content`."""
    position = 0
    while position < len(content):
        kind, size = struct.unpack_from(order + 'II', content, position)
        start, end = position + 8, position + 8 + size
        position = end if kind == _COMPRESSED else end + -end % 8
        if kind >> 16:  # up to four bytes, packed together with type and size
            kind, size = kind & 0xffff, kind >> 16
            position, start, end = start, start - 4, start - 4 + size
        if end > len(content) or size > 4 and end > position:
            raise ValueError('an element that runs over the end')
        yield kind, content[start:end]


def _read_split(path, variables, name, kernel_size):
    """The float32 [T, F] sequences and int64 labels of one split, in the file's order."""
    data, label, length = (variables.get(f'{name}_{part}') for part in ('data', 'label', 'length'))
    for part, value in {'data': data, 'label': label}.items():
        if value is None:
            raise ValueError(f"{path}: variable '{name}_{part}' is missing")
    if not isinstance(data, np.ndarray) or data.dtype.names or data.size == 0:
        raise ValueError(f"{path}: '{name}_data' must be a cell array of matrices or one N×T×F array, with at least "
                         f"one sequence")
    if data.dtype == object:
        matrices = list(data.ravel(order='F'))
    elif data.ndim in (2, 3):
        matrices = list(data.reshape(*data.shape[:2], -1))
    else:
        raise ValueError(f"{path}: '{name}_data' has {data.ndim} dimensions, expected N×T×F")

    labels = _whole_numbers(path, f'{name}_label', label, len(matrices))
    lengths = [None] * len(matrices)
    if length is not None:
        lengths = _whole_numbers(path, f'{name}_length', length, len(matrices))

    sequences = []
    for i, (x, steps) in enumerate(zip(matrices, lengths), start=1):
        where = f"{path}: sequence {i} of '{name}_data'"
        if not isinstance(x, np.ndarray) or x.ndim != 2 or x.dtype.kind not in 'biuf':
            raise ValueError(f'{where} is not a real T×F matrix')
        if steps is None:
            occupied = np.flatnonzero(np.any(x != 0, axis=1))
            steps = occupied[-1] + 1 if len(occupied) else 0
        elif not 0 <= steps <= len(x):
            raise ValueError(f"{where} has {len(x)} steps, but '{name}_length' says {steps}")
        with np.errstate(over='ignore'):  # what does not fit float32 becomes infinite and is refused below
            x = np.ascontiguousarray(x[:steps], dtype=np.float32)
        if not np.isfinite(x).all():
            raise ValueError(f'{where} holds NaN, infinity or a number too large for float32')
        if not x.any():
            raise ValueError(f'{where} is empty or all zero')
        if len(x) < kernel_size:
            raise ValueError(f"{where} has {len(x)} steps, fewer than the convolution kernel's {kernel_size}")
        sequences.append(x)
    return sequences, labels


def _whole_numbers(path, name, value, count):
    """`value`, the variable `name`, as `count` int64 numbers."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in 'biuf':
        raise ValueError(f"{path}: '{name}' must hold numbers")
    value = value.ravel(order='F')
    if len(value) != count:
        raise ValueError(f"{path}: '{name}' has {len(value)} entries for {count} sequences")
    if not (np.isfinite(value) & (value == np.round(value)) & (np.abs(value.astype(float)) < 2**31)).all():
        raise ValueError(f"{path}: '{name}' must hold whole numbers")
    return value.astype(np.int64)


def _summary(values):
    """A few numbers for a message."""
    return ', '.join(str(v) for v in values[:12]) + (', …' if len(values) > 12 else '')


def main():
    parser = argparse.ArgumentParser(description='Say what a .mat file of labelled sequences holds.')
    parser.add_argument('path', nargs='?', type=Path, default=DEFAULT_PATH, help='default: %(default)s')
    args = parser.parse_args()
    try:
        train, test = load_data(args.path)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f'{error}\n')
    for name, batches in {'train': train, 'test': test}.items():
        lengths = [len(x) for x in sequences_of(batches)]
        print(f'{name}: {len(lengths)} sequences of {min(lengths)} to {max(lengths)} steps, '
              f'{batches[0].inputs.shape[2]} features, {len(np.unique(targets_of(batches)))} classes')
    print(f'{int(seen_in_training(train, test).sum())} of the test sequences also occur in training')


if __name__ == '__main__':
    main()
