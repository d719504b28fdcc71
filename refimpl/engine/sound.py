"""Convert samples of a sound to an encoder's input: Whisper's log-mel spectrogram, or windows of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from ..ops.log_mel import hann_window, log_mel, mel_filters, mel_frequencies, power_spectrum

__all__ = ["HOP", "RATE", "Spectrogram", "Window", "features", "normalized", "windows"]

RATE = 16_000  # samples a second
WINDOW, HOP = 400, 160  # samples
SECONDS = 30
TOP = 45.245640471924965  # 8,000 Hz, half the rate, on Slaney's mel scale: 15 + 27 ln 8 / ln 6.4
LEAST, SPAN = 1e-10, 8.0
# Frames that are computed at a time, and those beside them whose samples they share.
BLOCK, MARGIN = 3000, 3


@cache
def _filters(bands: int) -> np.ndarray:
    """Return the weights of each mel band's triangle over the frequencies of a window, from 0 Hz up."""
    edges = mel_frequencies(np.linspace(0, TOP, bands + 2))
    return mel_filters(np.linspace(0, RATE / 2, WINDOW // 2 + 1), edges)


def features(sound: np.ndarray, *, bands: int) -> np.ndarray:
    """Return the log-mel spectrogram [T, bands], float32, of samples [N]: 100 frames per second.

    The input has 16,000 samples per second, from −1 to 1. A sound shorter than 30 s is extended to 30 s with
    silence. The last samples of a longer sound may be fewer than one frame's step. They get no frame of their
    own, and only the windows of earlier frames read them.
    """
    padded = np.pad(sound.astype(np.float64), (0, max(0, SECONDS * RATE - len(sound))))
    return _frames(_powers(padded), bands)


def _powers(sound: np.ndarray) -> np.ndarray:
    window = hann_window(np.arange(WINDOW, dtype=np.float64))
    return power_spectrum(sound[None], window, hop=HOP)[0]


def _frames(powers: np.ndarray, bands: int) -> np.ndarray:
    return log_mel(powers[None], _filters(bands), least=LEAST, span=SPAN)[0].astype(np.float32)


class Spectrogram:
    """The log-mel spectrogram of a sound that is read in blocks. It equals `features`, but needs less memory.

    `blocks()` returns an iterator over the samples from the beginning. It is called twice, since each frame
    depends on the loudest frame of the sound. A sound that is shorter than a window of `size` frames is
    extended with silence. `real` is the number of frames without this silence, and `total` is the number with
    it.
    """

    def __init__(self, blocks: Callable[[], Iterable[np.ndarray]], *, bands: int, size: int) -> None:
        self._bands, self.size = bands, size
        self.real = self.total = 0
        loudest, most = np.zeros((1, WINDOW // 2 + 1)), -1.0
        for powers in self._read(blocks()):
            self.total += len(powers)
            loud = (powers @ _filters(bands)).max(1)
            if loud.max(initial=-1.0) > most:
                most, loudest = float(loud.max()), powers[[loud.argmax()]]
        self._loudest = loudest
        self._later = self._read(blocks())
        self._held, self._begin = np.zeros((0, bands), np.float32), 0

    def window(self, at: int) -> np.ndarray:
        """Return the frames [size, bands] that begin at frame `at`. Frames after the end of the sound are
        zero.

        Windows must be requested in ascending order.
        """
        while True:
            gone = min(at - self._begin, len(self._held))
            self._held, self._begin = self._held[gone:], self._begin + gone
            if len(self._held) >= self.size or (powers := next(self._later, None)) is None:
                break
            # The loudest frame goes along, as frames depend on it.
            frames = _frames(np.concatenate([powers, self._loudest]), self._bands)[:-1]
            self._held = np.concatenate([self._held, frames])
        found = self._held[: self.size]
        return np.pad(found, ((0, self.size - len(found)), (0, 0)))

    def _read(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the powers of all frames, BLOCK frames at a time. The sound is mirrored at both ends."""
        held, before = np.zeros(0), 0
        for block in self._padded(blocks):
            held = np.concatenate([held, block])
            while len(held) >= (count := before + BLOCK + MARGIN) * HOP:
                yield _powers(held[: count * HOP])[before : before + BLOCK]
                held, before = held[(before + BLOCK - MARGIN) * HOP :], MARGIN
        yield _powers(held)[before:]

    def _padded(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        count = 0
        for block in blocks:
            count += len(block)
            yield block
        self.real = count // HOP
        yield np.zeros(max(0, self.size * HOP - count))


def normalized(samples: np.ndarray) -> np.ndarray:
    """Return the samples [N] with mean 0 and variance 1: (x − mean) / sqrt(var + 10⁻⁷), computed in float64.

    wav2vec 2.0's feature extractor does the same."""
    exact = samples.astype(np.float64)
    return (exact - exact.mean()) / np.sqrt(exact.var() + 1e-7)


class Window(NamedTuple):
    """A part of a sound that begins at sample `begin`. Its transcript counts only from `before` to `end`."""

    samples: np.ndarray
    begin: int
    before: int
    end: int
    last: bool


def windows(blocks: Iterable[np.ndarray], size: int, beside: int) -> Iterator[Window]:
    """Split a sound into overlapping windows of `size` samples.

    Each window begins 2 · `beside` samples before the end of the previous one. Of two neighbouring windows,
    the first counts up to the middle of the overlap, and the second counts from there on. The sound's first
    window counts from the start of the sound. The last window counts to the end of the sound, and may be
    shorter than `size`. At most one window and one block are in memory.
    """
    held, begin = np.zeros(0), 0
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) > size:
            yield Window(held[:size], begin, beside if begin else 0, size - beside, last=False)
            step = size - 2 * beside
            held, begin = held[step:], begin + step
    yield Window(held, begin, beside if begin else 0, len(held), last=True)
