"""Silence libraries that write to the terminal by themselves."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_LOCK = threading.Lock()
_within = 0  # how many are in `silent_stderr`: several threads may be at a time
_stderr: int | None = None  # the process's own, kept by the first of them until the last has left


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """A context manager that discards everything written to the process's stderr, even by C code."""
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _within, _stderr
    with _LOCK:
        _within += 1
        if _within > 1:
            return
        try:
            _stderr = os.dup(2)
        except OSError:  # the process has no stderr
            return
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)


def _leave() -> None:
    global _within, _stderr
    with _LOCK:
        _within -= 1
        if _within == 0 and _stderr is not None:
            os.dup2(_stderr, 2)
            os.close(_stderr)
            _stderr = None
