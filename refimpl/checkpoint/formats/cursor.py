"""Read forward through a part of a file, never past the end of that part, and within a memory limit."""

from __future__ import annotations

import struct

from ...errors import CheckpointError
from .file_bytes import FileBytes

# A file's description may take this much more memory than the file's size: a string of one letter takes 58
# bytes.
ROOM = 40 * 2**20
WINDOW = 2**18  # bytes that are read at a time


class Cursor:
    """A reader of a file's bytes from `at` to `end`. Errors name this part of the file `part`."""

    def __init__(self, file: FileBytes, part: str, at: int = 0, end: int | None = None) -> None:
        self.file, self.part, self.at = file, part, at
        self.end = len(file) if end is None else end
        self.window, self.window_begin = b"", at
        self._room = ROOM + len(file)

    def fail(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.file.path}: {message}")

    def hold(self, size: int, what: str) -> None:
        """Count `size` bytes of memory that stay in use. Raises CheckpointError if more memory than the limit
        has been counted.
        """
        self._room -= size
        if self._room < 0:
            allowed = (ROOM + len(self.file)) // 2**20
            raise self.fail(f"{self.part} may take at most {allowed} MB of memory, but {what} takes more")

    def take(self, size: int, what: str) -> bytes:
        """Return the next `size` bytes. Raises CheckpointError if fewer bytes are left."""
        left = self.end - self.at
        if size > left:
            raise self.fail(
                f"{what} needs {size} bytes at byte {self.at}, but {left} are left: the file is "
                "truncated or damaged"
            )
        begin = self.at - self.window_begin
        if begin + size > len(self.window):
            self.window_begin, begin = self.at, 0
            self.window = self.file.read(self.at, min(self.at + max(size, WINDOW), self.end)).tobytes()
        self.at += size
        return self.window[begin : begin + size]

    def number(self, form: str, what: str) -> int:
        """Read and return the next number. `form` is its format in Python's `struct` module."""
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]
