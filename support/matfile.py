"""Read variables of a MATLAB 5–7 file, after checking that the file is intact.

scipy's reader crashes on some damaged files and allocates gigabytes for others of a kilobyte. So
every size that a file claims ("MAT-File Format", The MathWorks) is first compared with its content.
"""

import io
import itertools
import math
import struct
import zlib
from pathlib import Path

from scipy.io import loadmat
from scipy.io.matlab import matfile_version

MATRIX, COMPRESSED = 14, 15  # types of elements
ITEM_SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}  # bytes, by type
CELL, NUMERIC, OPAQUE = 1, range(6, 16), 17  # classes of matrices
UNSUPPORTED = {2: 'a struct', 3: 'an object', 4: 'text', 5: 'a sparse matrix'}
UNPACKED_BYTES = 2**28  # a larger variable must be less than 100 times as large as compressed


class UnsupportedError(ValueError):
    """The file may be intact, but is not one to read; the message says why."""


def read_mat(path, names):
    """Read those variables `names` that a MATLAB 5–7 file holds into a dictionary of NumPy arrays.

    A cell array is an array of objects. Other variables may hold anything, and are not read.

    Raises FileNotFoundError or ValueError with one sentence that names the file: if it is missing,
    damaged or not such a file, if one of the variables is or holds anything but numbers and cells,
    and if a compressed one unpacks to more than 256 MiB and 100 times its size.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f'{path}: no such file, expected a MATLAB .mat file')
    try:
        major, _ = matfile_version(str(path), appendmat=False)
        if major == 2:
            raise UnsupportedError("a MATLAB v7.3 file, expected v5 to v7: use save(…, '-v7')")
        if major != 1:
            raise UnsupportedError('not a MATLAB v5 to v7 .mat file')
        content = Path(path).read_bytes()
        check_content(content, names)
        return loadmat(io.BytesIO(content), variable_names=names)
    except UnsupportedError as error:
        raise ValueError(f'{path}: {error}') from error
    except Exception as error:  # scipy lets many kinds escape from a damaged file
        raise ValueError(f'{path}: damaged, unreadable or not a MATLAB .mat file '
                         f'({type(error).__name__})') from error


def check_content(content, names):
    """Check the elements of a file. Raises UnsupportedError, or another error if it is damaged."""
    order = '<' if content[126:128] == b'IM' else '>'
    for kind, body in iterate_elements(memoryview(content)[128:], order):
        if kind == COMPRESSED:
            (kind, body), = iterate_elements(unpack(body), order)
        elif len(body) % 8:  # scipy takes what follows for the next variable, without padding
            raise ValueError('a variable whose size is not a multiple of 8')
        check_matrix(kind, body, order, names)


def unpack(body):
    """Decompress an element's content, in bounded memory, and compare it with its checksum."""
    limit = max(UNPACKED_BYTES, 100 * len(body))
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(body, limit + 1)
    if len(content) > limit:
        raise UnsupportedError("a variable unpacks to more than 256 MiB and 100 times its packed "
                               "size; save it without compression, with save(…, '-v6')")
    if not unpacker.eof:
        raise ValueError('truncated')
    return memoryview(content)


def check_matrix(kind, body, order, names, variable=None):
    """Check a matrix: a variable of the file, or a cell of `variable`."""
    parts = iterate_elements(body, order)
    (_, flags), (_, dims), (_, name) = itertools.islice(parts, 3)
    if kind != MATRIX or len(flags) != 8:
        raise ValueError('not a matrix')
    flags, = struct.unpack(order + 'I', flags[:4])
    matrix_class, is_complex = flags & 255, bool(flags & 0x800)
    if variable is None:
        variable = bytes(dims if matrix_class == OPAQUE else name).decode('latin-1')
        if variable not in names:
            return
    if matrix_class != CELL and matrix_class not in NUMERIC:
        found = UNSUPPORTED.get(matrix_class, 'something else')
        raise UnsupportedError(f"'{variable}' is or holds {found}, expected numbers, or a cell "
                               f"array of matrices")
    count = math.prod(struct.unpack(order + f'{len(dims) // 4}i', dims))
    if matrix_class == CELL:
        cells = 0
        for cells, (kind, part) in enumerate(parts, start=1):
            if not part:  # eight bytes in the file, but hundreds in memory
                raise UnsupportedError(f"cell {cells} of '{variable}' is empty")
            check_matrix(kind, part, order, names, variable)
        intact = cells == count
    else:
        sizes = [len(part) / ITEM_SIZES[kind] for kind, part in itertools.islice(parts, 3)]
        intact = sizes == [count] * (1 + is_complex)
    if not intact:
        raise ValueError('a matrix of another size than its dimensions')


def iterate_elements(content, order):
    """Yield (type, content) of each element in `content`, whose byte order is '<' or '>'."""
    position = 0
    while position < len(content):
        kind, size = struct.unpack_from(order + 'II', content, position)
        start, end = position + 8, position + 8 + size
        position = end if kind == COMPRESSED else end + -end % 8
        if kind >> 16:  # up to four bytes, packed together with type and size
            kind, size = kind & 0xffff, kind >> 16
            position, start, end = start, start - 4, start - 4 + size
        if end > len(content) or size > 4 and end > position:
            raise ValueError('an element that runs over the end')
        yield kind, content[start:end]
