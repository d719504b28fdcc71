"""The formula of merging: the nearest float32 to the exact result, in slices of bounded size."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from tfm.refimpl.checkpoint.weights import low_rank as module
from tfm.refimpl.checkpoint.weights.low_rank import merge


@pytest.mark.parametrize("dora", [False, True])
def test_merged_weights_are_the_nearest_float32(monkeypatch: pytest.MonkeyPatch, dora: bool):
    rng = np.random.default_rng(0)
    weight, down, up, magnitude = (
        rng.normal(size=s).astype(np.float32) for s in ((37, 24), (5, 24), (37, 5), (37,))
    )
    exact = weight.astype(np.longdouble) + np.longdouble(0.7) * (
        up.astype(np.longdouble) @ down.astype(np.longdouble)
    )
    if dora:
        exact *= (magnitude / np.sqrt((exact**2).sum(axis=1)))[:, None]
    whole = merge(weight, down, up, 0.7, magnitude if dora else None)
    assert whole.dtype == np.float32
    # Half an ulp, and a float64's rounding before it.
    assert (np.abs(whole - exact) <= 0.5001 * np.spacing(np.abs(whole))).all()
    monkeypatch.setattr(module, "SLICE", 100)
    assert np.array_equal(merge(weight, down, up, 0.7, magnitude if dora else None), whole)


def test_a_slice_at_a_time_is_in_float64(monkeypatch: pytest.MonkeyPatch):
    weight, down = np.ones((2**12, 256), np.float32), np.ones((1, 256), np.float32)
    monkeypatch.setattr(module, "SLICE", 2**14)
    tracemalloc.start()
    merge(weight, down, np.ones((len(weight), 1), np.float32), 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * weight.nbytes
