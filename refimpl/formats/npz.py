"""Arrays of numbers in an .npz file, as tfm writes them: a zip whose entries are stored as they are.

    "\\x93NUMPY" 1 0   u16 length   {'descr': '<f8', 'fortran_order': False, 'shape': (2, 12), }   padding
    the numbers, row-major or, with fortran_order, column-major

NumPy's own reader takes the header for Python and unpacks whatever an entry claims. Here the header is the
very text that `np.save` writes, and nothing is larger than the file.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile

import numpy as np

from ..errors import CheckpointError, TfmError

HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<|][iuf][1248])', 'fortran_order': (True|False), "
    rb"'shape': \(([0-9, ]{0,80})\), \} *\n",
    re.DOTALL,
)


def read_arrays(data: bytes, where: str, error: type[TfmError] = CheckpointError) -> dict[str, np.ndarray]:
    """The arrays by name; `error` for anything that isn't such a file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            entries = file.infolist()
            arrays = {e.filename.removesuffix(".npy"): _array(file, e, len(data)) for e in entries}
            if len(arrays) < len(entries):
                raise ValueError("each array may stand once")
            return arrays
    except (ValueError, EOFError, OSError, struct.error, NotImplementedError, zipfile.BadZipFile) as problem:
        raise error(f"{where}: must be a whole .npz file of numbers: {problem!s:.120}") from None


def _array(file: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> np.ndarray:
    name = repr(entry.filename)[:40]
    if entry.flag_bits & 1:
        raise ValueError(f"{name} must not be encrypted")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > limit:
        raise ValueError(f"{name} must be stored as it is, in at most {limit} bytes")
    data = file.read(entry)
    header = HEADER.match(data)
    if header is None:
        raise ValueError(f"{name} must be an array of numbers")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(size) for size in header[3].split(b",") if size.strip())
    left = len(data) - header.end()
    if math.prod(shape) * dtype.itemsize != left:
        raise ValueError(f"{name} claims shape {list(shape)!s:.60} of {dtype}, and has {left} bytes")
    order = "F" if header[2] == b"True" else "C"
    return np.frombuffer(data, dtype, offset=header.end()).reshape(shape, order=order)
