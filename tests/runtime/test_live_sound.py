"""Samples of a pipe: those that were written, however they come, and nobody who writes is kept waiting."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from tfm.runtime.live_sound import live_samples


@pytest.mark.parametrize("pieces", [[7, 1, 300], [1] * 22, [4096, 5]])
def test_samples_are_those_that_were_written(pieces: list[int]):
    """Also where a piece ends within a sample; half a sample at the end is none."""
    whole = np.random.default_rng(1).bytes(sum(pieces))

    class Pipe:
        written = iter(
            [*np.split(np.frombuffer(whole, np.uint8), np.cumsum(pieces)[:-1]), np.zeros(0, np.uint8)]
        )

        def read1(self, size: int, /) -> bytes:
            return next(self.written).tobytes()

    found = np.concatenate([*live_samples(Pipe())])
    assert np.array_equal(found, np.frombuffer(whole[: len(whole) // 2 * 2], "<i2") / 32768)
    assert [*live_samples(io.BytesIO())] == []


def test_who_writes_doesnt_wait_for_who_reads():
    """As a recorder that would lose sound; a pipe of Linux holds 64 KiB."""
    reads, writes = os.pipe()
    with open(reads, "rb") as pipe, open(writes, "wb", buffering=0) as file:
        samples = live_samples(pipe)
        for _ in range(100):
            file.write(bytes(4096))
        file.close()
        assert sum(map(len, samples)) == 100 * 2048
