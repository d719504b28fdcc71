"""Read a sound from a pipe while it is recorded: 16-bit PCM samples, one channel."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Queue
from threading import Thread
from typing import Protocol

import numpy as np

BYTES = 2**12  # of a read, 0.13 seconds, at most: a pipe gives what there is
AHEAD = 2**10  # reads that may wait, 2 minutes: then the writer waits


class Pipe(Protocol):
    """A stream of bytes. `read1` waits for data and returns at most `size` bytes, or none at the end of the
    stream.
    """

    def read1(self, size: int, /) -> bytes: ...


def live_samples(pipe: Pipe) -> Iterator[np.ndarray]:
    """Yield blocks of samples [N] as they arrive, until the writer closes the pipe.

    The pipe contains 16-bit PCM (little-endian); samples are scaled to the range −1 to 1. A thread reads the
    pipe all the time, because a recorder would lose samples that nobody reads while the model is busy.
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
