"""Exponents of memory, and how far back an LSTM and attention reach."""

from __future__ import annotations

import numpy as np
from tfm.runtime.analysis import scaling


def test_flash_attention_is_linear_where_tiles_are_small():
    make = scaling.mechanisms()["flash"].make
    peaks = [scaling.peak(make(n)) for n in (4096, 8192)]
    assert 2**0.8 <= peaks[1] / peaks[0] <= 2**1.2


def test_how_an_lstm_and_attention_forget():
    """The LSTM's dependence falls as exp(−N) until rounding hides it, attention's as 1/N."""
    dependence = scaling.dependence([2, 4, 8, 16, 32, 256])
    assert dependence.lstm[-1] is None
    assert dependence.lstm[:5] == sorted(dependence.lstm[:5], reverse=True)
    assert 0.5 < dependence.lstm_a_token < 0.95
    assert -1.5 < dependence.attention_exponent < -0.5


def test_the_difference_is_the_derivative(monkeypatch):
    """For a layer with a known derivative, in which later inputs count for more."""

    def summed(x, *_):
        return None, np.sum(np.arange(1, x.shape[1] + 1)[None, :, None] * np.sin(x), axis=1)

    monkeypatch.setattr(scaling, "lstm", summed)
    got = scaling.dependence([3, 5]).lstm
    assert all(value is not None and 0.2 < value < 1 for value in got), (
        "a cosine a number, along a unit direction"
    )
