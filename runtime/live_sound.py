"""Read samples from a pipe as they come, for example from a recorder: 16-bit PCM, one channel."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Queue
from threading import Thread
from typing import Protocol

import numpy as np

BYTES = 2**12  # of a read, 0.13 seconds, at most: a pipe gives what there is
AHEAD = 2**10  # reads that may wait, 2 minutes: then the writer waits


class Pipe(Protocol):
    """A source of bytes. `read1` waits for data and returns at most `size` bytes, or no bytes at the end."""

    def read1(self, size: int, /) -> bytes: ...


def live_samples(pipe: Pipe) -> Iterator[np.ndarray]:
    """Yield the samples [N] of 16-bit PCM (little-endian), scaled to the range −1 to 1, as they arrive, until
    the writer closes the pipe.

    A thread reads the pipe from the start, because a recorder would lose samples that nobody reads while the
    model is busy.
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
