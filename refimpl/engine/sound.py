"""From the samples of a sound to what Whisper's encoder reads of it: a log-mel spectrogram."""

from __future__ import annotations

from functools import cache

import numpy as np

from ..ops.log_mel import hann_window, log_mel, mel_filters, mel_frequencies, power_spectrum

__all__ = ["HOP", "RATE", "features"]

RATE = 16_000  # samples a second
WINDOW, HOP = 400, 160  # samples
SECONDS = 30
TOP = 45.245640471924965  # 8,000 Hz, half the rate, on Slaney's mel scale: 15 + 27 ln 8 / ln 6.4
LEAST, SPAN = 1e-10, 8.0


@cache
def _filters(bands: int) -> np.ndarray:
    """The bands' triangles over the frequencies of a window, from 0 Hz up."""
    edges = mel_frequencies(np.linspace(0, TOP, bands + 2))
    return mel_filters(np.linspace(0, RATE / 2, WINDOW // 2 + 1), edges)


def features(sound: np.ndarray, *, bands: int) -> np.ndarray:
    """The frames [T, bands] of the samples [N], 16,000 a second from −1 to 1: 100 of them a second, float32.

    Silence follows a sound of less than 30 s up to that; of a longer one the samples that fill no hop are
    read by the windows before them alone.
    """
    padded = np.pad(sound.astype(np.float64), (0, max(0, SECONDS * RATE - len(sound))))
    window = hann_window(np.arange(WINDOW, dtype=np.float64))
    power = power_spectrum(padded[None], window, hop=HOP)
    return log_mel(power, _filters(bands), least=LEAST, span=SPAN)[0].astype(np.float32)
