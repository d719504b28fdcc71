"""Scales by search: of many that could be tried, each block takes the one whose error matters least.

What a product gets wrong is Σ_d x_d (ŵ_d − w_d). With inputs that don't hang together its mean square is
Σ_d m_d (ŵ_d − w_d)², m_d the mean square of input d: a weight that meets a large input must be exact,
one that meets none may be anything. This is the diagonal of what `gptq` works with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..ops.quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

__all__ = ["SHRINKS", "could_be", "error", "least_error", "mean_square"]

# Shares of a block's range that are tried. A narrower one clips its extremes and is finer for the rest.
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)


def mean_square(x: Float[Array, "M D"]) -> Float[Array, " D"]:
    """The mean over inputs of x², each coordinate for itself, in float64."""
    return np.mean(np.square(x, dtype=np.float64), axis=0)


def error(weight: Float[Array, "D F"], q: Float[Array, "D F"], importance: Float[Array, " D"]) -> float:
    """Σ_df importance_d (q_df − w_df)², in float64."""
    return float(np.sum(importance[:, None] * np.square(q.astype(np.float64) - weight)))


def _parts(weight: Array, block: int) -> Array:
    """[D, F] -> [C, block, F], zeros where the last block is short."""
    length, count = weight.shape
    blocks = -(-length // block)
    return np.pad(weight, ((0, blocks * block - length), (0, 0))).reshape(blocks, block, count)


def _tries(w: Array, top: int) -> Iterator[tuple[Array, Array, Array]]:
    """Step, zero point and codes as rounding has them, for each share of the blocks' ranges."""
    low, high = np.minimum(w.min(axis=1), 0), np.maximum(w.max(axis=1), 0)
    for share in SHRINKS:
        step = (high - low) * share / top
        some = np.where(step > 0, step, 1)
        z = np.clip(np.rint(-low * share / some), 0, top)
        yield step, z, np.clip(np.rint(w / some[:, None]) + z[:, None], 0, top)


def least_error(
    weight: Float[Array, "D F"],
    importance: Float[Array, " D"],
    *,
    bits: int,
    block: int,
) -> Blocks:
    """Asymmetric blocks along axis 0, each with the least error of those tried.

    For each share of the range: the zero point and codes as `quantize` would make them, then the scale
    that is best for these codes, d = Σ m c w / Σ m c² with c = code − zero. Never worse than the
    first share with its best scale, hence never than rounding to nearest. Conventions: of equal errors the
    wider range counts; where no input of a block matters its scale is that of rounding.
    """
    length, count = weight.shape
    w, top = _parts(weight, block), 2**bits - 1
    blocks, short = len(w), len(w) * block - length
    m = np.pad(importance.astype(w.dtype), (0, short)).reshape(blocks, block, 1)
    codes, zero = np.zeros(w.shape, np.uint8), np.zeros((blocks, count), np.uint8)
    scale, least = np.zeros((blocks, count), w.dtype), np.full((blocks, count), np.inf, w.dtype)
    for step, z, q in _tries(w, top):
        c = q - z[:, None]
        mc = m * c
        square = np.sum(mc * c, axis=1)
        best = np.sum(mc * w, axis=1) / np.where(square > 0, square, 1)
        d = np.where((square > 0) & (best > 0), best, step)
        e = np.sum(m * np.square(c * d[:, None] - w), axis=1)
        better = e < least
        least = np.where(better, e, least)
        scale, zero = np.where(better, d, scale), np.where(better, z, zero).astype(np.uint8)
        codes = np.where(better[:, None], q, codes).astype(np.uint8)
    codes = codes.reshape(blocks * block, count)[:length]
    return Blocks(codes, scale, zero, None, bits, block, 0, "none")


def could_be(weight: Float[Array, "D F"], made: Blocks) -> bool:
    """Whether some importance gives these blocks: codes of a share that is tried, and a scale between.

    Σ m c w / Σ m c² is a mean of the ratios w / c, so it lies between the least and the largest of them
    whatever m is. For those who have the weights and not the importance.
    """
    step = max(1, 2**20 // max(len(weight), 1))
    return all(
        _could_be(weight[:, i : i + step], made, slice(i, i + step)) for i in range(0, weight.shape[1], step)
    )


def _could_be(weight: Array, made: Blocks, part: slice) -> bool:
    if made.zero is None:
        return False
    w, q = _parts(weight, made.block), _parts(made.codes[:, part], made.block)
    scale, zero, top = made.scale[:, part].astype(w.dtype), made.zero[:, part], 2**made.bits - 1
    real = _parts(np.ones(weight.shape, bool), made.block)
    slack = 4 * float(np.finfo(made.scale.dtype).eps)
    fits = np.zeros(scale.shape, bool)
    for step, z, codes in _tries(w, top):
        c = codes - z[:, None]
        # Where a code is 0 its weight says nothing of the scale: the step stands in, which is allowed too.
        ratio = np.divide(w, c, out=np.broadcast_to(step[:, None], w.shape).copy(), where=c != 0)
        least, most = np.minimum(ratio.min(axis=1), step), np.maximum(ratio.max(axis=1), step)
        between = (scale >= least * (1 - slack)) & (scale <= most * (1 + slack))
        fits |= between & (z == zero) & ((codes == q) | ~real).all(axis=1)
    return bool(fits.all())
