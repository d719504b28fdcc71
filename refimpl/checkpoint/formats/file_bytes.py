"""The bytes of a file, read when they are asked for.

They aren't mapped: where a file is cut short while a mapping of it is read, the system ends the process with
a signal that no `except` sees. A read that comes up short is an error like any other.
"""

from __future__ import annotations

import os
import stat
import threading
import weakref
from pathlib import Path

import numpy as np

from ...errors import CheckpointError, TfmError
from . import sha256


class FileBytes:
    """The bytes of a regular file, which stays open; `error` is what failures are raised as.

    Raises `error` for a file that can't be opened, or isn't a regular one. It is opened without blocking, so
    that a pipe in a model's directory can't hang the reader.
    """

    def __init__(self, path: Path, error: type[TfmError] = CheckpointError) -> None:
        self.path, self._error = path, error
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            fd = os.open(path, flags)
        except OSError as problem:
            raise error(f"{path}: can't be opened: {problem.strerror}") from None
        except ValueError as problem:
            raise error(f"{str(path)!r}: can't be opened: {problem}") from None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise error(f"{path}: must be a regular file")
        self._size, self._lock = status.st_size, threading.Lock()
        self._file = os.fdopen(fd, "rb", buffering=0)
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return self._size

    def read(self, begin: int, end: int) -> np.ndarray:
        """The bytes from `begin` to `end`, which lie in the file, as a new array."""
        data = np.empty(end - begin, np.uint8)
        self.read_into(data, begin)
        return data

    def read_into(self, data: np.ndarray, begin: int) -> None:
        """Fill an array of bytes with those from `begin` on."""
        rest = data.data
        try:
            with self._lock:
                self._file.seek(begin)
                while rest and (count := self._file.readinto(rest)):
                    rest = rest[count:]
        except OSError as problem:
            raise self._error(f"{self.path}: can't be read: {problem.strerror}") from None
        if rest:
            raise self._error(
                f"{self.path}: must have {self._size} bytes, it was cut short while it was read"
            )

    def sha256(self) -> str:
        """The SHA-256 of the whole file, in hexadecimal."""
        digest, data = sha256.new(self._size), np.empty(min(self._size, 2**20), np.uint8)
        for begin in range(0, self._size, 2**20):
            part = data[: self._size - begin]
            self.read_into(part, begin)
            digest.update(part.data)
        return digest.hexdigest()


def read_file(path: Path, limit: int, error: type[TfmError] = CheckpointError) -> bytes:
    """The bytes of a small file; `error` beyond `limit`."""
    file = FileBytes(path, error)
    if len(file) > limit:
        raise error(f"{path}: may have {limit} bytes, has {len(file)}")
    return file.read(0, len(file)).tobytes()
