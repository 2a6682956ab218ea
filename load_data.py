"""Read a `.mat` file of labeled sequences into length-sorted, zero-padded minibatches.

    python load_data.py                       # describe data/JV_data.mat
    python load_data.py data/JV_uci.mat       # or any other file of load_data()'s schema
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from support.matfile import read_mat
from support.program import run_program

VARIABLES = ('train_data', 'train_label', 'train_length', 'test_data', 'test_label', 'test_length')
DEFAULT_PATH = Path(__file__).resolve().parent / 'data' / 'JV_data.mat'
UCI_PATH = DEFAULT_PATH.with_name('JV_uci.mat')  # the clean partition, see data/README.md
EVALUATION_BATCH = 128  # sequences in a minibatch that is not trained on: large ones are fast


class Batch(NamedTuple):
    """A minibatch of B sequences of F features, padded to the T steps of the longest."""
    inputs: torch.Tensor   # float32 [B, T, F], zero after each sequence's own length
    targets: torch.Tensor  # int64 [B], classes counted from 0
    lengths: torch.Tensor  # int64 [B], steps before the padding


def load_data(path=DEFAULT_PATH, batch_size=27, kernel_size=1, test_batch_size=None):
    """Read training and test minibatches from a MATLAB 5–7 file.

    The file holds, for each of `train` and `test`,

    * `train_data`: a cell row or column of N numeric T×F matrices, one sequence each; or one
      padded N×T×F array (MATLAB drops a last dimension of 1, so N×T stands for one feature);
    * `train_label`: N whole numbers, 0 to C−1 or 1 to C, each of which occurs in training;
    * `train_length` (optional): N step counts. Without it, all-zero steps at the end of a
      sequence are padding.

    Returns `(train, test)`, two lists of `Batch`: the sequences, sorted stably by length, cut into
    minibatches of `batch_size` (the last one may be smaller), each as long as its longest sequence.
    `test_batch_size` is `batch_size` by default.

    Raises FileNotFoundError or ValueError with one sentence that names the file and the variable:
    for a missing or damaged file, a missing variable, a wrong number of labels or lengths, a label
    out of range, sequences that differ in their features, an empty or all-zero sequence, NaN or
    infinity, and a sequence shorter than `kernel_size`, which the convolution could not read.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}, expected at least 1')
    variables = read_mat(path, VARIABLES)
    train, train_labels = read_split(path, variables, 'train', kernel_size)
    test, test_labels = read_split(path, variables, 'test', kernel_size, train[0].shape[1])

    classes = np.unique(train_labels)
    first, last = classes[0], classes[-1]
    if first not in (0, 1) or len(classes) != last - first + 1:
        raise ValueError(f"{path}: 'train_label' must use every whole number from 0 or 1 up to its "
                         f"largest, found {len(classes)} different ones from {first} to {last}")
    unknown = np.setdiff1d(test_labels, classes)
    if len(unknown):
        raise ValueError(f"{path}: 'test_label' is {unknown[0]}, out of the range {first} to "
                         f"{last} of 'train_label'")
    return (make_batches(train, train_labels - first, batch_size),
            make_batches(test, test_labels - first, test_batch_size or batch_size))


def make_batches(sequences, labels, batch_size):
    """Sort float32 [T, F] arrays stably by length and cut them into a list of padded `Batch`."""
    order = np.argsort([len(x) for x in sequences], kind='stable')
    batches = []
    for start in range(0, len(order), batch_size):
        members = order[start:start + batch_size]
        inputs = torch.nn.utils.rnn.pad_sequence([torch.tensor(sequences[i]) for i in members],
                                                 batch_first=True)
        targets = torch.tensor([int(labels[i]) for i in members])
        lengths = torch.tensor([len(sequences[i]) for i in members])
        batches.append(Batch(inputs, targets, lengths))
    return batches


def sequences_of(batches):
    """Return the sequences of a list of `Batch`, in order: float32 [T, F] arrays, not padded."""
    return [x[:n].numpy() for batch in batches for x, n in zip(batch.inputs, batch.lengths)]


def targets_of(batches):
    """Return the classes of a list of `Batch`, in order: an int64 array."""
    return torch.cat([batch.targets for batch in batches]).numpy()


def seen_in_training(train, test):
    """Return which test sequences also occur, value for value, in training: bool [N]."""
    known = {(x.shape, x.tobytes()) for x in sequences_of(train)}
    return torch.tensor([(x.shape, x.tobytes()) in known for x in sequences_of(test)],
                        dtype=torch.bool)


def read_split(path, variables, name, kernel_size, features=None):
    """Return the float32 [T, F] sequences and int64 labels of one split, in the file's order."""
    data, label, length = (variables.get(f'{name}_{part}') for part in ('data', 'label', 'length'))
    for part, value in {'data': data, 'label': label}.items():
        if value is None:
            raise ValueError(f"{path}: variable '{name}_{part}' is missing")
    if data.size == 0:
        raise ValueError(f"{path}: '{name}_data' must hold at least one sequence")
    matrices = data.ravel(order='F') if data.dtype == object else np.atleast_3d(data)
    labels = as_whole_numbers(path, f'{name}_label', label, len(matrices))
    lengths = ([None] * len(matrices) if length is None
               else as_whole_numbers(path, f'{name}_length', length, len(matrices)))

    sequences = []
    for i, (x, steps) in enumerate(zip(matrices, lengths), start=1):
        where = f"{path}: sequence {i} of '{name}_data'"
        if x.ndim != 2 or x.dtype.kind not in 'biuf':
            raise ValueError(f'{where} is not a real T×F matrix')
        if steps is None:
            nonzero = np.flatnonzero(np.any(x != 0, axis=1))
            steps = nonzero[-1] + 1 if len(nonzero) else 0
        elif not 0 <= steps <= len(x):
            raise ValueError(f"{where} has {len(x)} steps, but '{name}_length' says {steps}")
        with np.errstate(over='ignore'):  # too large for float32 becomes infinite, refused below
            x = np.ascontiguousarray(x[:steps], dtype=np.float32)
        if not np.isfinite(x).all():
            raise ValueError(f'{where} holds NaN, infinity or a number too large for float32')
        if not x.any():
            raise ValueError(f'{where} is empty or all zero')
        if len(x) < kernel_size:
            raise ValueError(f"{where} has {len(x)} steps, fewer than the kernel's {kernel_size}")
        features = features or x.shape[1]
        if x.shape[1] != features:
            raise ValueError(f"{where} has {x.shape[1]} features, expected {features} as in "
                             f"sequence 1 of 'train_data'")
        sequences.append(x)
    return sequences, labels


def as_whole_numbers(path, name, value, count):
    """Return `value`, the variable `name`, as `count` int64 numbers."""
    if value.dtype.kind not in 'biuf':
        raise ValueError(f"{path}: '{name}' must hold numbers")
    value = value.ravel(order='F')
    if len(value) != count:
        raise ValueError(f"{path}: '{name}' has {len(value)} entries for {count} sequences")
    whole = np.isfinite(value) & (value == np.round(value)) & (np.abs(value.astype(float)) < 2**31)
    if not whole.all():
        raise ValueError(f"{path}: '{name}' must hold whole numbers")
    return value.astype(np.int64)


def main(args):
    train, test = load_data(args.path)
    for name, batches in {'train': train, 'test': test}.items():
        lengths = [len(x) for x in sequences_of(batches)]
        print(f'{name}: {len(lengths)} sequences of {min(lengths)} to {max(lengths)} steps, '
              f'{batches[0].inputs.shape[2]} features, {len(set(targets_of(batches)))} classes')
    print(f'{seen_in_training(train, test).sum()} of the test sequences also occur in training')


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Describe a .mat file of labeled sequences.')
    parser.add_argument('path', nargs='?', default=DEFAULT_PATH, help='default: %(default)s')
    return parser.parse_args(argv)


if __name__ == '__main__':
    run_program(main, get_args)
