"""Samples as they come through a pipe, as a microphone's program writes them: 16-bit PCM, one channel."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Queue
from threading import Thread
from typing import Protocol

import numpy as np

BYTES = 2**12  # of a read, 0.13 seconds, at most: a pipe gives what there is
AHEAD = 2**10  # reads that may wait, 2 minutes: then the writer waits


class Pipe(Protocol):
    """What gives at most so many bytes, once some are there, and none at its end."""

    def read1(self, size: int, /) -> bytes: ...


def live_samples(pipe: Pipe) -> Iterator[np.ndarray]:
    """The samples [N] of 16-bit PCM (little-endian) from −1 to 1, as they come, until the writer ends.

    A thread reads them from now on, since a recorder loses what isn't read while a text is written.
    """
    waiting: Queue[bytes] = Queue(AHEAD)

    def read() -> None:
        try:
            while data := pipe.read1(BYTES):
                waiting.put(data)
        finally:
            waiting.put(b"")

    Thread(target=read, daemon=True).start()
    return _samples(waiting)


def _samples(waiting: Queue[bytes]) -> Iterator[np.ndarray]:
    rest = b""
    while data := waiting.get():
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        yield np.frombuffer(data[:whole], "<i2") / 2**15
