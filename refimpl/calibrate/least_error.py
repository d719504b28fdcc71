"""Scales by search: each block takes the scale with the least weighted error among several.

The error of a product is Σ_d x_d (ŵ_d − w_d). For uncorrelated inputs its mean square is
Σ_d m_d (ŵ_d − w_d)², where m_d is the mean square of input d: weights of large inputs must be exact, weights
of inputs that are 0 don't matter. m is the diagonal of the Hessian of `gptq`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..ops.quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

__all__ = ["SHRINKS", "error", "is_possible", "least_error", "mean_square"]

# Shares of a block's range that are tried: a narrower range clips the extremes, and its steps are finer.
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)


def mean_square(x: Float[Array, "M D"]) -> Float[Array, " D"]:
    """The mean over inputs of x², per coordinate, in float64."""
    return np.mean(np.square(x, dtype=np.float64), axis=0)


def error(weight: Float[Array, "D F"], q: Float[Array, "D F"], importance: Float[Array, " D"]) -> float:
    """Σ_df importance_d (q_df − w_df)², in float64."""
    return float(np.sum(importance[:, None] * np.square(q.astype(np.float64) - weight)))


def _into_blocks(weight: Array, block: int) -> Array:
    """[D, F] -> [C, block, F], zeros where the last block is short."""
    length, count = weight.shape
    blocks = -(-length // block)
    return np.pad(weight, ((0, blocks * block - length), (0, 0))).reshape(blocks, block, count)


def _candidates(w: Array, top: int) -> Iterator[tuple[Array, Array, Array]]:
    """Scale, zero point and codes by rounding to nearest, for each share of the blocks' ranges."""
    low, high = np.minimum(w.min(axis=1), 0), np.maximum(w.max(axis=1), 0)
    for share in SHRINKS:
        step = (high - low) * share / top
        nonzero_step = np.where(step > 0, step, 1)
        z = np.clip(np.rint(-low * share / nonzero_step), 0, top)
        yield step, z, np.clip(np.rint(w / nonzero_step[:, None]) + z[:, None], 0, top)


def least_error(
    weight: Float[Array, "D F"],
    importance: Float[Array, " D"],
    *,
    bits: int,
    block: int,
) -> Blocks:
    """Asymmetric blocks along axis 0, each with the least weighted error of those tried.

    For each share of the range: zero point and codes as in `quantize`, then the best scale for these codes,
    d = Σ m c w / Σ m c² with c = code − zero. The first share with its best scale is never worse than
    rounding to nearest, so the result isn't either. Conventions: ties go to the wider range; if all inputs
    of a block have importance 0, its scale is that of rounding to nearest.
    """
    length, count = weight.shape
    w, top = _into_blocks(weight, block), 2**bits - 1
    blocks, short = len(w), len(w) * block - length
    m = np.pad(importance.astype(w.dtype), (0, short)).reshape(blocks, block, 1)
    codes, zero = np.zeros(w.shape, np.uint8), np.zeros((blocks, count), np.uint8)
    scale, least = np.zeros((blocks, count), w.dtype), np.full((blocks, count), np.inf, w.dtype)
    for step, z, q in _candidates(w, top):
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


def is_possible(weight: Float[Array, "D F"], blocks: Blocks) -> bool:
    """Whether `least_error` gives these blocks for some importance: codes of a share, and a possible scale.

    Σ m c w / Σ m c² is a weighted mean of the ratios w / c, so it lies between the least and the largest of
    them for any m. Verification uses this, since it has the weights but not the importance.
    """
    step = max(1, 2**20 // max(len(weight), 1))
    return all(
        _is_possible(weight[:, i : i + step], blocks, slice(i, i + step))
        for i in range(0, weight.shape[1], step)
    )


def _is_possible(weight: Array, blocks: Blocks, part: slice) -> bool:
    if blocks.zero is None:
        return False
    w, q = _into_blocks(weight, blocks.block), _into_blocks(blocks.codes[:, part], blocks.block)
    scale, zero, top = blocks.scale[:, part].astype(w.dtype), blocks.zero[:, part], 2**blocks.bits - 1
    real = _into_blocks(np.ones(weight.shape, bool), blocks.block)
    slack = 4 * float(np.finfo(blocks.scale.dtype).eps)
    fits = np.zeros(scale.shape, bool)
    for step, z, codes in _candidates(w, top):
        c = codes - z[:, None]
        # A code of 0 doesn't bound the scale: the step takes the place of its ratio, which is allowed too.
        ratio = np.divide(w, c, out=np.broadcast_to(step[:, None], w.shape).copy(), where=c != 0)
        least, most = np.minimum(ratio.min(axis=1), step), np.maximum(ratio.max(axis=1), step)
        between = (scale >= least * (1 - slack)) & (scale <= most * (1 + slack))
        fits |= between & (z == zero) & ((codes == q) | ~real).all(axis=1)
    return bool(fits.all())
