"""Read the bytes of a file only when they are needed.

The file isn't mapped into memory. If a mapped file is cut short while it is read, the system ends the process
with a signal that no `except` can catch. A read that returns too few bytes is an ordinary error instead.
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
    """The bytes of a regular file, which stays open. All failures raise the error class `error`.

    Raises `error` for a file that can't be opened, or that isn't a regular file. The file is opened without
    blocking, so that a pipe in a model's directory can't hang the reader.
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
        """Return the bytes from `begin` to `end`, which must be in the file, as a new array."""
        data = np.empty(end - begin, np.uint8)
        self.read_into(data, begin)
        return data

    def read_into(self, data: np.ndarray, begin: int) -> None:
        """Fill an array with the file's bytes from `begin` on."""
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
                f"{self.path}: must have {self._size} bytes, but the file became shorter while tfm read it"
            )

    def sha256(self) -> str:
        """Return the SHA-256 of the whole file, in hexadecimal."""
        digest, data = sha256.new(self._size), np.empty(min(self._size, 2**20), np.uint8)
        for begin in range(0, self._size, 2**20):
            part = data[: self._size - begin]
            self.read_into(part, begin)
            digest.update(part.data)
        return digest.hexdigest()


def read_file(path: Path, limit: int, error: type[TfmError] = CheckpointError) -> bytes:
    """Return the bytes of a small file. Raises `error` if the file has more than `limit` bytes."""
    file = FileBytes(path, error)
    if len(file) > limit:
        raise error(f"{path}: may have at most {limit} bytes, but it has {len(file)}")
    return file.read(0, len(file)).tobytes()
