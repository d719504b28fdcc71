r"""Read an array of numbers from an .npy file, as `np.save` writes it, row-major.

    "\x93NUMPY" 1 0   u16 length   {'descr': '<f8', 'fortran_order': False, 'shape': (2, 12), }   padding
    the numbers

NumPy's own reader parses the header as Python. Here the header must be exactly the text that `np.save`
writes, and nothing may follow the numbers.
"""

from __future__ import annotations

import math
import re

import numpy as np

from ...errors import CheckpointError, TfmError

HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(<[if][248]|[|][iu]1|<u[248])', 'fortran_order': False, "
    rb"'shape': \(([0-9, ]{0,80})\), \} *\n",
    re.DOTALL,
)


def read_array(data: bytes, where: str, error: type[TfmError] = CheckpointError) -> np.ndarray:
    """Return the array in the bytes of an .npy file. Raises `error` for anything that `np.save` doesn't write
    for an array of numbers in row-major order.
    """
    header = HEADER.match(data)
    if header is None:
        raise error(f"{where}: must be an .npy file of numbers in row-major order")
    dtype, left = np.dtype(header[1].decode()), len(data) - header.end()
    try:
        shape = tuple(int(size) for size in header[2].split(b",") if size.strip())
        if math.prod(shape) * dtype.itemsize != left:
            raise ValueError(f"the file has {left} bytes of {dtype}")
        return np.frombuffer(data, dtype, offset=header.end()).reshape(shape)
    except ValueError as problem:
        shape_text = header[2].decode()
        raise error(f"{where}: can't have the shape ({shape_text:.60}): {problem!s:.120}") from None
