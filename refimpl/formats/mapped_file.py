"""Files as bytes: mapped, or read up to a limit."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

import numpy as np

from ..errors import CheckpointError


def map_file(path: Path) -> np.ndarray:
    """The bytes of a regular file, mapped read-only; CheckpointError if it isn't one.

    Opened without blocking, so that a pipe in a model's directory can't hang the reader.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be opened: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{str(path)!r}: can't be opened: {error}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path}: must be a regular file")
        if status.st_size == 0:
            return np.zeros(0, np.uint8)
        return np.frombuffer(mmap.mmap(fd, 0, access=mmap.ACCESS_READ), np.uint8)
    finally:
        os.close(fd)


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a small file; CheckpointError beyond `limit`."""
    data = map_file(path)
    if len(data) > limit:
        raise CheckpointError(f"{path}: may have {limit} bytes, has {len(data)}")
    return data.tobytes()
