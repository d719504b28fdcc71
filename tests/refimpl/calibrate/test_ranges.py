"""Ranges of activations: laws of the observers, the definitions in loops, torch and ONNX Runtime.

ONNX Runtime's entropy isn't an oracle: it spreads no count over the bins that are left over when the
number of bins isn't a multiple of the steps, and smooths what is empty. The definition as a plain loop
is, and the choice is tried where it is known.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization import calibrate
from tfm.refimpl.calibrate.ranges import (
    Histogram,
    Range,
    entropy,
    histogram,
    minmax,
    percentile,
    scale_and_zero_point,
)
from tfm.refimpl.errors import NumericError

seeds = st.integers(0, 2**32 - 1)


def batches(seed: int, count: int = 4) -> list[np.ndarray]:
    """Batches of very different sizes and scales, some empty, some of zeros, one with an outlier."""
    rng = np.random.default_rng(seed)
    results = []
    for _ in range(count):
        x = rng.standard_normal((rng.integers(0, 6), rng.integers(1, 9))) * 2.0 ** rng.integers(-30, 30)
        results.append((x * rng.integers(0, 2, x.shape)).astype(np.float32).reshape(-1))
    return results


def observe(parts: list[np.ndarray], bins: int = 64) -> Histogram:
    state = None
    for x in parts:
        state = histogram(state, x, bins=bins)
    assert state is not None
    return state


@given(seeds)
def test_batches_equal_one_large_batch(seed: int):
    """Counts are equal to the integer, in whatever order and batches the numbers come."""
    parts = batches(seed)
    all_values = np.concatenate(parts)
    one, some, back = observe([all_values]), observe(parts), observe(parts[::-1])
    for got in (some, back):
        assert (got.counts == one.counts).all()
        assert got[1:] == one[1:]
    assert one.counts.sum() == all_values.size
    assert len(one.counts) == 64


@given(seeds)
def test_a_number_is_counted_in_its_bin(seed: int):
    x = np.concatenate(batches(seed)).astype(np.float64)
    state = observe([x])
    limit = 2.0**state.exponent
    edges = np.linspace(-limit, limit, 65)
    assert (np.abs(x) < limit).all()
    expected = [int(((edges[i] <= x) & (x < edges[i + 1])).sum()) for i in range(64)]
    assert state.counts.tolist() == expected
    # numpy's last bin holds its upper edge, which no number reaches
    assert state.counts.tolist() == np.histogram(x, edges)[0].tolist()


@given(seeds, st.sampled_from((0.5, 0.9, 0.99, 1.0)))
def test_percentile_cuts_no_more_than_its_share(seed: int, share: float):
    """Nor less than it may: without the next bin, a tail would be too heavy."""
    x = np.concatenate(batches(seed)).astype(np.float64)
    state = observe([x])
    interval, most = percentile(state, share=share), (1 - share) / 2 * x.size
    assert (x < interval.low).sum() <= most
    assert (x > interval.high).sum() <= most
    width = 2.0 ** (state.exponent - 5)
    if x.size:
        assert (x < interval.low + width).sum() > most
        assert (x > interval.high - width).sum() + (x == interval.high - width).sum() > most
    if share == 1:
        assert interval == minmax(None, x)


def test_a_tail_may_be_as_heavy_as_its_share():
    state = observe([np.array([1.0, 2.0, 3.0, 4.0])])
    assert percentile(state, share=0.5) == Range(2.0, 3.25)
    assert percentile(state, share=0.51) == Range(1.0, 4.0)


def divergence(histogram_counts: list[int], i: int, levels: int) -> float:
    """KL(P‖Q) of the first i bins, by the definition and bin by bin."""
    p = [float(c) for c in histogram_counts[:i]]
    p[-1] += sum(histogram_counts[i:])
    q = [0.0] * i
    for step in range(levels):
        bins = [k for k in range(i) if k * levels // i == step and histogram_counts[k]]
        for k in bins:
            q[k] = sum(histogram_counts[k] for k in bins) / len(bins)
    if any(b == 0 < a for a, b in zip(p, q, strict=True)):
        return np.inf
    return sum(a / sum(p) * np.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True) if a)


@given(seeds, st.sampled_from((4, 8, 16)))
def test_entropy_is_the_definition(seed: int, levels: int):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 50, 64) * rng.integers(0, 2, 64)
    counts = counts // (1 + np.abs(np.arange(64) - 31.5)).astype(int)
    state = Histogram(counts, 3, Range(-8.0, 8.0))
    magnitudes = (counts[32:] + counts[:32][::-1]).tolist()
    used = max((i + 1 for i in range(32) if magnitudes[i]), default=0)
    tried = {i: divergence(magnitudes, i, levels) for i in range(levels, used + 1)}
    interval = entropy(state, levels=levels)
    assert interval.low == -interval.high
    chosen = round(interval.high / 8 * 32)
    if not tried:
        assert chosen == used
    else:
        assert tried[chosen] <= min(tried.values()) + 1e-12


def test_entropy_cuts_a_far_outlier_and_keeps_what_is_even():
    rng = np.random.default_rng(0)
    x = np.append(rng.standard_normal(100_000), 60.0).astype(np.float32)
    interval = entropy(histogram(None, x))
    assert 3 < interval.high < 10
    assert interval.low == x.min() or -10 < interval.low < -3
    even = np.linspace(-1, 1, 100_001).astype(np.float32)
    assert entropy(histogram(None, even)) == Range(-1.0, 1.0)
    few = np.array([-3.0, 2.0, 2.0], np.float32)
    assert entropy(histogram(None, few, bins=64)) == Range(-3.0, 2.0)


@given(seeds)
def test_parameters_cover_the_range(seed: int):
    """Each number of the range is off by half a scale at most (and the ends' rounding), and 0 is exact."""
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.standard_normal(2) * 2.0 ** rng.integers(-20, 20)).astype(np.float32)
    scale, zero = scale_and_zero_point(Range(float(ends[0]), float(ends[1])))
    assert (scale.dtype, zero.dtype) == (np.float32, np.uint8)
    x = np.append(np.linspace(ends[0], ends[1], 999, dtype=np.float32), np.float32(0))
    codes = np.clip(np.rint(x / scale) + zero, 0, 255)
    back = (codes - zero) * scale
    assert np.abs(back - x).max() <= scale * (1 + 1e-5)
    assert back[-1] == 0


def test_nothing_and_zeros():
    assert scale_and_zero_point(Range(0.0, 0.0)) == (1.0, 0)
    empty = np.zeros(0, np.float32)
    nothing = minmax(None, empty)
    assert nothing == Range(np.inf, -np.inf)
    assert scale_and_zero_point(nothing) == (1.0, 0)
    assert minmax(Range(1.0, 2.0), empty) == Range(1.0, 2.0)
    state = histogram(None, empty)
    assert percentile(state) == entropy(state) == nothing
    assert histogram(state, np.full(3, 7.0)).exponent == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("observer", [minmax, histogram])
def test_what_is_not_finite_has_no_range(observer, bad: float):
    with refused(NumericError, "activations", "finite", "NaN"):
        observer(None, np.array([1.0, bad], np.float32))


@given(seeds, st.sampled_from((8, 16)))
def test_torch_observes_the_same_extremes_and_parameters(seed: int, bits: int):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is to move
        from torch.ao.quantization import MinMaxObserver

        settings = {"dtype": torch.quint8 if bits == 8 else torch.uint16, "quant_max": 2**bits - 1}
        settings |= {"quant_min": 0, "qscheme": torch.per_tensor_affine, "eps": 1e-30}
        observer = MinMaxObserver(**settings)
        state = None
        for x in [p for p in batches(seed) if p.size] or [np.ones(1, np.float32)]:
            state = minmax(state, x)
            observer(torch.from_numpy(x))
        scale, zero = observer.calculate_qparams()
    assert state == Range(float(observer.min_val), float(observer.max_val))
    ours = scale_and_zero_point(state, bits=bits)
    assert ours[1].dtype == np.dtype(f"uint{bits}")
    if state != Range(0.0, 0.0):
        assert ours[0] == np.float32(scale.item())
        assert int(ours[1]) == zero.item()


@given(seeds, st.sampled_from((90.0, 99.0, 99.9)))
def test_onnxruntime_cuts_the_same_percentiles(seed: int, percent: float):
    """From the same histogram: it takes the lower edge of the last bin that is kept, we the upper one.

    No share of 4999 is a whole count: there its sums of floats decide."""
    x = (np.random.default_rng(seed).standard_t(3, 4999) * 3).astype(np.float32)
    state = histogram(None, x, bins=512)
    limit = 2.0**state.exponent
    edges = np.linspace(-limit, limit, 513).astype(np.float32)
    collector = calibrate.HistogramCollector("percentile", False, 512, 128, percent, None)
    collector.histogram_dict = {"x": (state.counts, edges, x.min(), x.max())}
    low, high = collector.compute_collection_result()["x"][:2]
    interval = percentile(state, share=percent / 100)
    assert interval.low == low
    assert interval.high == min(high + limit / 256, x.max())
