"""Find the range of an activation from flat batches: by extremes, by percentiles, or by least entropy.

For example, by least entropy:

    state = None
    for x in batches:
        state = histogram(state, x)
    scale, zero = scale_and_zero_point(entropy(state))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import NumericError

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8, UInt16
    from numpy import ndarray as Array

BINS = 4096  # TensorRT's 2048, on either side of zero


class Range(NamedTuple):
    """The interval of numbers that the codes cover. Numbers outside the interval get the code of the
    nearest end.
    """

    low: float
    high: float


class Histogram(NamedTuple):
    """A histogram of numbers in equal bins from −2^exponent to 2^exponent, with the exact smallest and
    largest number.
    """

    counts: Int[Array, " M"]
    exponent: int
    extremes: Range


def minmax(state: Range | None, x: Float[Array, " M"]) -> Range:
    """Return the range from the smallest to the largest number so far. Before the first number, it is (∞,
    −∞).

    Raises NumericError for NaN or infinity, as `histogram` does.
    """
    if not np.isfinite(x).all():
        raise NumericError(
            "activations must be finite so that their range can be measured, got NaN or infinity"
        )
    low, high = (np.inf, -np.inf) if state is None else state
    return Range(float(x.min(initial=low)), float(x.max(initial=high)))


def histogram(state: Histogram | None, x: Float[Array, " M"], *, bins: int = BINS) -> Histogram:
    """Add a batch of numbers to a histogram, and return the new histogram. Bin i counts the numbers −limit
    + i · width ≤ x < −limit + (i + 1) · width.

    Conventions: the limit is the least power of two above all magnitudes so far. When the limit doubles,
    two neighbouring bins become one. So the counts don't depend on how the numbers are divided into
    batches, or on the order of the batches. `bins` is a multiple of 4. Raises NumericError for NaN or
    infinity.
    """
    extremes = minmax(None if state is None else state.extremes, x)
    needed = int(np.frexp(max(-extremes.low, extremes.high, 0))[1])
    counts = np.zeros(bins, np.int64) if state is None else state.counts
    # Zeros are in the same bin for every limit.
    small = state is None or max(-state.extremes.low, state.extremes.high) <= 0
    exponent = needed if state is None or small else state.exponent
    while exponent < needed:
        pairs = counts.reshape(-1, 2).sum(axis=1)
        counts, exponent = np.pad(pairs, len(pairs) // 2), exponent + 1
    middle = len(counts) // 2
    # Scaling by a power of two is exact, so a number's new bin is half its old one.
    index = np.floor(np.ldexp(x.astype(np.float64), -exponent) * middle).astype(np.int64)
    return Histogram(counts + np.bincount(index + middle, minlength=len(counts)), exponent, extremes)


def _range_of_bins(state: Histogram, low: int, high: int) -> Range:
    """Return the range from the lower edge of bin `low` to the upper edge of bin `high`, limited to the
    extremes.
    """
    middle = len(state.counts) // 2

    def edge(i: int) -> float:
        return float(np.ldexp((i - middle) / middle, state.exponent))

    return Range(max(state.extremes.low, edge(low)), min(state.extremes.high, edge(high + 1)))


def percentile(state: Histogram, *, share: float = 0.9999) -> Range:
    """Return the shortest range of whole bins with at most (1 − share) / 2 of the numbers beyond each end.

    Conventions: both ends are cut independently, as by ONNX Runtime's asymmetric PercentileCalibrater. A
    bin is kept or dropped as a whole. A share of 1 gives the exact extremes.
    """
    most = (1 - share) / 2 * state.counts.sum()
    below, above = np.cumsum(state.counts), np.cumsum(state.counts[::-1])
    if below[-1] == 0:
        return state.extremes
    return _range_of_bins(state, int(np.argmax(below > most)), len(above) - 1 - int(np.argmax(above > most)))


def entropy(state: Histogram, *, levels: int = 128) -> Range:
    """Return the range [−t, t] that loses the least information if |x| is stored in `levels` steps: the t
    with the least KL(P‖Q).

    Migacz 2017 ("8-bit Inference with TensorRT") tries t at the upper edge of each bin from the
    `levels`-th on. P is the histogram of |x| below t, with the counts of all larger numbers added to its
    last bin. Q is the same histogram without these counts, in `levels` steps. Each step's count is spread
    evenly over its bins that aren't empty.

    Conventions: bin k of i belongs to step ⌊k · levels / i⌋. (In the paper, steps have ⌊i / levels⌋ bins,
    and the last step has the rest.) A t is impossible if Q is 0 where P isn't 0, so the last bin is never
    empty. Ties go to the least t. The range stays within the extremes. If too few bins are in use, it is
    the extremes.
    """
    middle = len(state.counts) // 2
    magnitudes = state.counts[middle:] + state.counts[:middle][::-1]
    used = int(np.flatnonzero(magnitudes)[-1]) + 1 if magnitudes.any() else 0
    best, least = used, np.inf
    for i in range(levels, used + 1):
        if magnitudes[i - 1] == 0:
            continue
        inside = magnitudes[:i]
        full = inside > 0
        step = (np.arange(i) * levels // i)[full]
        p = inside[full].astype(np.float64)
        q = (np.bincount(step, p, levels) / np.maximum(np.bincount(step, minlength=levels), 1))[step]
        p[-1] += magnitudes[i:].sum()
        p, q = p / p.sum(), q / q.sum()
        divergence = float(np.sum(p * np.log(p / q)))
        if divergence < least:
            best, least = i, divergence
    return _range_of_bins(state, middle - best, middle + best - 1)


def scale_and_zero_point(
    interval: Range, *, bits: int = 8
) -> tuple[Float[Array, ""], UInt8[Array, ""] | UInt16[Array, ""]]:
    """Return the scale and zero point with which unsigned codes cover a range: code = clip(rint(x / scale)
    + zero, 0, 2^bits − 1).

    `bits` is 8 or 16. As in `ops.quant.dynamic_quantize`, the range is widened to contain 0, so 0 has an
    exact code; scale = (high − low) / (2^bits − 1), zero = clip(rint(−low / scale)). Conventions: the
    scale is float32, and the zero point has the type of the codes. If every number is 0, the scale is 1.
    """
    codes = np.dtype(f"uint{bits}")
    most = np.iinfo(codes).max
    low, high = np.float32(min(interval.low, 0)), np.float32(max(interval.high, 0))
    scale = (high - low) / np.float32(most)
    if scale == 0:
        return np.array(1, np.float32), np.array(0, codes)
    return np.array(scale), np.array(np.clip(np.rint(-low / scale), 0, most), codes)
