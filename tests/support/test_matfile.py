"""Reading .mat files: damaged, hostile and foreign ones are refused before scipy reads them.

    python -m pytest tests/support/test_matfile.py
"""

import struct
import zlib

import numpy as np
import pytest
from scipy.io import savemat

from support import matfile
from support.matfile import iterate_elements, read_mat

CELL, TEXT, DOUBLE, OPAQUE = 1, 4, 6, 17  # classes of matrices
NUMBER = struct.pack('<d', 1)


def element(kind, body):
    return struct.pack('<II', kind, len(body)) + body + bytes(-len(body) % 8)


def matrix(name, dims, *parts, matrix_class=DOUBLE):
    return element(14, b''.join([element(6, struct.pack('<II', matrix_class, 0)),
                                 element(5, struct.pack(f'<{len(dims)}i', *dims)),
                                 element(1, name.encode()), *parts]))


def compressed(content):
    packed = zlib.compress(content)
    return struct.pack('<II', 15, len(packed)) + packed


def bomb(mebibytes):
    """A variable of zeros, compressed a mebibyte at a time."""
    packer, size = zlib.compressobj(9), mebibytes * 2**20
    header = matrix('values', (1, size // 8), element(9, b''))[:-4] + struct.pack('<I', size)
    header = header[:4] + struct.pack('<I', len(header) - 8 + size) + header[8:]
    packed = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed += block * mebibytes
    return struct.pack('<II', 15, len(packed)) + packed


def hidden(variable):
    """Two variables, at whose border a reader that skips no padding finds `variable`."""
    first = matrix('note', (1, 1), element(2, b'1'))[8:-4]
    second = bytearray(bytes(4) + variable[16:] + bytes(4))
    second[42] = 1
    return [struct.pack('<II', 14, len(first)) + first + struct.pack('<I', 14), element(14, second)]


def write_elements(path, *elements):
    path.write_bytes(b'MATLAB 5.0 MAT-file'.ljust(124) + b'\x00\x01IM' + b''.join(elements))
    return path


HUGE = 2**30
ONE = matrix('', (1, 1), element(9, NUMBER))
CRASHES_SCIPY = matrix('values', (0, 0), element(19, b''))  # its numbers are of an unknown type
HOSTILE = {  # case: elements of the file, message
    'fewer cells than it claims': (
        [matrix('values', (1, HUGE), ONE, matrix_class=CELL)], 'damaged, unreadable or not'),
    'fewer cells, compressed': (
        [compressed(matrix('values', (HUGE, 1), ONE, matrix_class=CELL))],
        'damaged, unreadable or not'),
    'more cells than it claims': (
        [matrix('values', (1, 1), ONE, ONE, matrix_class=CELL)], 'damaged, unreadable or not'),
    'text that is not there': (
        [matrix('values', (1, HUGE), element(16, b''), matrix_class=TEXT)], 'is or holds text'),
    'bomb': ([bomb(8)], '256 MiB and 100 times'),
    'bomb of another name': ([bomb(8).replace(b'values', b'others')], '256 MiB and 100 times'),
    'compressed twice': ([compressed(compressed(ONE))], 'damaged, unreadable or not'),
    'empty cells': (
        [matrix('values', (1, 2), element(14, b''), matrix_class=CELL)], 'cell 1 .* is empty'),
    'unknown type': ([CRASHES_SCIPY], 'damaged, unreadable or not'),
    'hidden variable': (hidden(CRASHES_SCIPY), 'damaged, unreadable or not'),
    'opaque': ([element(14, element(6, struct.pack('<II', OPAQUE, 0)) + element(1, b'values')
                        + element(1, b'MCOS') + element(1, b'string') + CRASHES_SCIPY)],
               "'values' is or holds something else"),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_hostile_files_are_refused_before_scipy_reads_them(tmp_path, monkeypatch, case):
    elements, message = HOSTILE[case]
    calls = []
    monkeypatch.setattr(matfile, 'loadmat', lambda *args, **kwargs: calls.append(args))
    monkeypatch.setattr(matfile, 'UNPACKED_BYTES', 2**20)
    path = write_elements(tmp_path / 'bad.mat', *elements)
    with pytest.raises(ValueError, match=message) as error:
        read_mat(path, ['values'])
    assert str(error.value).startswith(f'{path}: ') and '\n' not in str(error.value) and not calls


# Where scipy crashes: a byte of a matrix, counted from the start of its flags, and what it becomes.
# It says that the matrix is complex, of a type that there is not, or larger than what follows.
@pytest.mark.parametrize('repack', [False, True])
@pytest.mark.parametrize('offset, value', [(9, 8), (56, 14), (56, 40), (58, 9), (24, 99)])
def test_damage_that_crashes_scipy_is_refused(tmp_path, offset, value, repack):
    path = tmp_path / 'bad.mat'
    savemat(path, {'train_label': np.array([[0, 1, 1]], dtype=np.uint8), 'other': np.ones((2, 3))})
    assert read_mat(path, ['train_label', 'other'])['train_label'].tolist() == [[0, 1, 1]]
    content = bytearray(path.read_bytes())
    flags = content.index(b'train_label') - 40
    assert content[flags:flags + 8] == b'\6\0\0\0\x08\0\0\0'
    content[flags + offset] = value
    elements = [content[128:]]
    if repack:  # with a right checksum
        elements = [compressed(element(*part)) for part in iterate_elements(content[128:], '<')]
    with pytest.raises(ValueError, match='damaged, unreadable or not'):
        read_mat(write_elements(path, *elements), ['train_label', 'other'])


def test_variables_of_other_names_and_classes_are_not_read(tmp_path):
    opaque = element(14, element(6, struct.pack('<II', OPAQUE, 0)) + element(1, b'text')
                     + element(1, b'MCOS') + element(1, b'string'))
    good = matrix('values', (1, 1), element(9, NUMBER))
    for elements in [opaque, good], [compressed(opaque), compressed(good)]:
        variables = read_mat(write_elements(tmp_path / 'good.mat', *elements), ['values', 'absent'])
        assert variables['values'] == 1 and not {'text', 'absent'} & set(variables)
