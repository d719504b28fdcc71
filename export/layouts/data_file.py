"""Copy a bundle's weights into another directory, and append tensors that were inputs of the bundle's graph.

The copy shares the bundle's blocks on disk if the file system supports this. A link wouldn't work, because
onnx refuses a data file with several names.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...runtime.bundle.plan import Tensor

ALIGNMENT = 4096
CHUNK = 2**20  # bytes that are read at a time
# What `copy_file_range` raises where it can't copy between two files, though `copyfile` can.
CANNOT = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def copy(source: Path, target: Path) -> None:
    """Copy a file. If the file system can share disk blocks between files, the copy is made without reading
    the data.
    """
    if hasattr(os, "copy_file_range"):
        try:
            with open(source, "rb") as read, open(target, "wb") as write:
                left = os.fstat(read.fileno()).st_size
                while left and (count := os.copy_file_range(read.fileno(), write.fileno(), left)):
                    left -= count
            if not left:
                return
        except OSError as error:
            if error.errno not in CANNOT:
                raise
    shutil.copyfile(source, target)


def extract(source: Path, target: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy some tensors from one data file to another, and return the tensors' places in the new file.

    Each tensor begins at the next multiple of 4096 bytes.
    """
    places = {}
    with open(source, "rb") as read, open(target, "wb") as write:
        for name, tensor in tensors.items():
            write.write(bytes(-write.tell() % ALIGNMENT))
            places[name] = replace(tensor, offset=write.tell())
            read.seek(tensor.offset)
            for start in range(0, tensor.length, CHUNK):
                write.write(read.read(min(CHUNK, tensor.length - start)))
    return places


def append(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Append arrays to a data file, each at the next multiple of 4096 bytes, and return the arrays' places in
    the file.
    """
    places = {}
    with open(path, "ab") as file:
        for name, array in arrays.items():
            file.write(bytes(-file.tell() % ALIGNMENT))
            places[name] = Tensor(array.dtype.name, array.shape, file.tell(), array.nbytes)
            file.write(np.ascontiguousarray(array).data)
    return places
