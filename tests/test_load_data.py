"""The loader: the committed files, other files of their schema, and every kind of bad input.

    python -m pytest tests/test_load_data.py
"""

import io

import numpy as np
import pytest
import torch
from scipy.io import savemat
from scipy.sparse import coo_array

from load_data import (DEFAULT_PATH, UCI_PATH, get_args, load_data, main, make_batches,
                       seen_in_training, sequences_of)


def cells(sequences, column=False):
    array = np.empty((1, len(sequences)), dtype=object)
    array[0, :] = sequences
    return array.T if column else array


def three_sequences():
    """Two features; 4, 2 and 3 steps; the middle one repeats nothing of the others."""
    return [np.arange(1.0, 9.0).reshape(4, 2), np.full((2, 2), -1.0),
            np.arange(11.0, 17.0).reshape(3, 2)]


def variables(**changes):
    """A good file's variables, with `changes`; a change to None drops the variable."""
    good = {'train_data': cells(three_sequences()),
            'train_label': np.array([[0, 1, 1]], dtype=np.uint8),
            'test_data': cells(three_sequences()[:2]),
            'test_label': np.array([[1, 0]], dtype=np.uint8)}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def save(path, **changes):
    savemat(path, variables(**changes))
    return path


def same_batches(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for p, q in zip(a, b) for x, y in zip(p, q))


def test_committed_files_have_the_documented_partitions():
    train, test = load_data(DEFAULT_PATH)
    assert [len(batch.targets) for batch in train] == [27] * 10
    assert [len(batch.targets) for batch in test] == [27] * 13
    assert train[0].inputs.dtype == torch.float32
    assert train[0].targets.dtype == train[0].lengths.dtype == torch.int64
    assert torch.cat([batch.targets for batch in train]).bincount().tolist() == [30] * 9
    assert seen_in_training(train, test).sum() == 60
    clean_train, clean_test = load_data(UCI_PATH)
    assert same_batches(train, clean_train)
    assert sum(len(batch.targets) for batch in clean_test) == 370
    assert not seen_in_training(clean_train, clean_test).any()


def test_padded_cells_without_lengths_give_the_batches_of_true_lengths(tmp_path):
    """The course's own file stores sequences padded within each run of 27, and no lengths."""
    expected = load_data(DEFAULT_PATH)
    stored = {}
    for name, batches in zip(('train', 'test'), expected):
        stored[f'{name}_data'] = cells([x.double().numpy()
                                        for batch in batches for x in batch.inputs])
        stored[f'{name}_label'] = np.concatenate([batch.targets.numpy().astype(np.uint8)
                                                  for batch in batches])[None]
    savemat(tmp_path / 'padded.mat', stored)
    assert all(same_batches(a, b) for a, b in zip(load_data(tmp_path / 'padded.mat'), expected))


def test_sorted_stably_cut_and_padded_to_each_batchs_own_longest():
    sequences = [np.full((n, 1), i + 1, dtype=np.float32) for i, n in enumerate([3, 1, 3, 2, 1])]
    batches = make_batches(sequences, [0, 1, 2, 3, 4], batch_size=2)
    assert [batch.targets.tolist() for batch in batches] == [[1, 4], [3, 0], [2]]
    assert [batch.lengths.tolist() for batch in batches] == [[1, 1], [2, 3], [3]]
    assert batches[1].inputs[:, :, 0].tolist() == [[4, 4, 0], [1, 1, 1]]
    assert [len(x) for x in sequences_of(batches)] == [1, 1, 2, 3, 3]


def test_trailing_zero_rows_are_padding_only_where_no_lengths_say_otherwise(tmp_path):
    padded = [np.vstack([x, np.zeros((2, 2))]) for x in three_sequences()]
    padded[0][1] = 0  # a zero step inside a sequence is data
    train, _ = load_data(save(tmp_path / 'stripped.mat', train_data=cells(padded)))
    assert [n for batch in train for n in batch.lengths.tolist()] == [2, 3, 4]
    train, _ = load_data(save(tmp_path / 'given.mat', train_data=cells(padded),
                              train_length=np.array([[5, 4, 5]])))
    assert [n for batch in train for n in batch.lengths.tolist()] == [4, 5, 5]


@pytest.mark.parametrize('layout', ['column', '3-D', 'labels from 1', 'flat labels', 'integers'])
def test_every_layout_of_the_schema_gives_the_same_batches(tmp_path, layout):
    expected, _ = load_data(save(tmp_path / 'plain.mat'))
    sequences = three_sequences()
    block = np.zeros((3, 6, 2))
    for i, x in enumerate(sequences):
        block[i, :len(x)] = x
    change = {'column': {'train_data': cells(sequences, column=True),
                         'train_label': np.array([[0], [1], [1]])},
              '3-D': {'train_data': block},
              'labels from 1': {'train_label': np.array([[1, 2, 2]]),
                                'test_label': np.array([[2, 1]])},
              'flat labels': {'train_label': np.array([0.0, 1.0, 1.0])},
              'integers': {'train_data': cells([x.astype(np.int16) for x in sequences])}}[layout]
    assert same_batches(load_data(save(tmp_path / 'other.mat', **change))[0], expected)


def test_one_feature_as_matlab_stores_it(tmp_path):
    # N×T: MATLAB drops the last dimension of 1
    block = np.array([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0], [4.0, 5.0, 6.0]])
    train, _ = load_data(save(tmp_path / 'one.mat', train_data=block, test_data=block[:2]))
    assert train[0].inputs[:, :, 0].tolist() == [[3, 0, 0], [1, 2, 0], [4, 5, 6]]


def bad(sequence):
    return cells([three_sequences()[0], sequence, three_sequences()[2]])


BAD_VARIABLES = {
    'missing variable': (dict(test_label=None), "'test_label' is missing"),
    'wrong number of labels': (dict(train_label=np.array([[0, 1]])),
        "'train_label' has 2 entries for 3 sequences"),
    'wrong number of lengths': (dict(test_length=np.array([[2]])), "'test_length' has 1 entries"),
    'length beyond the rows': (dict(train_length=np.array([[4, 3, 3]])),
        "sequence 2 of 'train_data'.*says 3"),
    'ragged features': (dict(train_data=bad(np.ones((3, 5)))),
        "sequence 2 of 'train_data' has 5 features, expected 2"),
    'other features in test': (dict(test_data=cells([np.ones((3, 3))] * 2)),
        "'test_data' has 3 features, expected 2"),
    'empty sequence': (dict(train_data=bad(np.zeros((0, 2)))),
        "sequence 2 of 'train_data' is empty"),
    'all-zero sequence': (dict(train_data=bad(np.zeros((4, 2)))),
        "sequence 2 of 'train_data' is empty or all zero"),
    'NaN': (dict(train_data=bad(np.array([[1.0, np.nan]] * 3))),
        "sequence 2 of 'train_data' holds NaN"),
    'infinity': (dict(train_data=bad(np.array([[1.0, -np.inf]] * 3))),
        "sequence 2 of 'train_data' holds NaN, inf"),
    'beyond float32': (dict(train_data=bad(np.full((3, 2), 1e300))),
        "sequence 2 of 'train_data'.*too large"),
    'too short for the kernel': (dict(train_data=bad(np.ones((1, 2)))),
        "sequence 2 of 'train_data' has 1 steps"),
    'text for a sequence': (dict(train_data=bad('abc')),
        "'train_data' is or holds text, expected numbers"),
    'cells for a sequence': (dict(train_data=bad(cells([np.ones((3, 2))] * 2))),
                             "sequence 2 of 'train_data' is not a real T×F matrix"),
    'complex': (dict(train_data=bad(np.ones((3, 2)) * 1j)),
        "sequence 2 of 'train_data' is not a real"),
    'no sequences': (dict(train_data=np.empty((1, 0), dtype=object)),
        "'train_data' must hold at least one"),
    'four dimensions': (dict(train_data=np.ones((3, 2, 2, 2))),
        "sequence 1 of 'train_data' is not a real"),
    'gap in the labels': (dict(train_label=np.array([[0, 2, 2]])),
        "'train_label' must use every whole number"),
    'labels from 2': (dict(train_label=np.array([[2, 3, 3]])),
        "'train_label' must use every whole number"),
    'fractional label': (dict(train_label=np.array([[0, 0.5, 1]])),
        "'train_label' must hold whole numbers"),
    'NaN label': (dict(train_label=np.array([[0, np.nan, 1]])),
        "'train_label' must hold whole numbers"),
    'text labels': (dict(train_label=np.array(['a', 'b', 'b'])), "'train_label' is or holds text"),
    'cells for labels': (dict(train_label=cells([np.ones((1, 1))] * 3)),
        "'train_label' must hold numbers"),
    'a huge label': (dict(train_label=np.array([[0, 1, 2**30]])),
        "'train_label' must use every whole number"),
    'a struct': (dict(train_data={'a': 1}),
        "'train_data' is or holds a struct, expected numbers, or a cell array"),
    'a struct in a cell': (dict(train_data=bad({'a': 1})), "'train_data' is or holds a struct"),
    'sparse labels': (dict(train_label=coo_array([[0, 1, 1]])),
        "'train_label' is or holds a sparse matrix"),
    'test label out of range': (dict(test_label=np.array([[0, 7]])),
        "'test_label' is 7, out of the range 0 to 1"),
}


@pytest.mark.parametrize('case', BAD_VARIABLES)
def test_bad_variables_are_refused_in_one_sentence(tmp_path, case):
    changes, message = BAD_VARIABLES[case]
    path = save(tmp_path / 'bad.mat', **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_data(path, kernel_size=2)
    assert str(error.value).startswith(f'{path}: ') and '\n' not in str(error.value)


def bad_file(case):
    buffer = io.BytesIO()
    savemat(buffer, variables(), do_compression=True)
    good = buffer.getvalue()
    return {'empty': b'', 'text': b'not a matrix at all, but a line of text\n' * 9,
            'truncated': good[:len(good) // 2],
            'header only': good[:128], 'version 4': bytes(400),
            'version 7.3': b'MATLAB 7.3 MAT-file'.ljust(124) + b'\x00\x02IM\x89HDF\r\n\x1a\n'}[case]


@pytest.mark.parametrize('case', ['empty', 'text', 'truncated', 'header only', 'version 4',
                                  'version 7.3'])
def test_bad_files_are_refused_in_one_sentence(tmp_path, case):
    path = tmp_path / 'bad.mat'
    path.write_bytes(bad_file(case))
    with pytest.raises(ValueError) as error:
        load_data(path)
    assert str(error.value).startswith(f'{path}: ') and '\n' not in str(error.value)
    assert ('v7.3' in str(error.value)) == (case == 'version 7.3')


def test_a_flipped_bit_in_compressed_data_is_refused(tmp_path):
    path = tmp_path / 'bad.mat'
    savemat(path, variables(), do_compression=True)
    content = path.read_bytes()
    for position in range(136, len(content), 7):
        flipped = bytes([content[position] ^ 16])
        path.write_bytes(content[:position] + flipped + content[position + 1:])
        try:
            assert same_batches(load_data(path)[0], load_data(save(tmp_path / 'good.mat'))[0])
        except ValueError as error:
            assert str(error).startswith(f'{path}: ')


def test_variables_of_other_names_may_hold_anything(tmp_path):
    other = {'note': 'recorded in May', 'settings': {'rate': 3, 'cell': cells([{'a': 1}])},
             'sparse': coo_array([[1, 0]])}
    assert same_batches(load_data(save(tmp_path / 'more.mat', **other))[0],
                        load_data(save(tmp_path / 'good.mat'))[0])


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='absent.mat: no such file'):
        load_data(tmp_path / 'absent.mat')
    with pytest.raises(ValueError, match='unreadable'):
        load_data(tmp_path)


def test_the_command_line_describes_a_file(capsys):
    main(get_args([]))
    assert 'test: 351 sequences of 7 to 22 steps, 12 features, 9 classes' in capsys.readouterr().out
