"""Search the scales of a quantized weight: each block takes the scale with the least weighted error.

The error of a product is Σ_d x_d (ŵ_d − w_d). For uncorrelated inputs its mean square is Σ_d m_d (ŵ_d −
w_d)², where m_d is the mean square of input d. So weights for large inputs must be exact, and weights for
inputs that are 0 don't matter. m is the diagonal of the Hessian of `coordinate_descent`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..ops.quant import Blocks, half_scales

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

# Shares of a block's range that are tried: a narrower range clips the extremes, and its steps are finer.
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
# Of an error: what two processors that round an importance otherwise may differ by.
NOISE = 1e-3


def mean_square(x: Float[Array, "M D"]) -> Float[Array, " D"]:
    """Return the mean of x² over the inputs [M, D], for each coordinate, in float64."""
    return np.mean(np.square(x, dtype=np.float64), axis=0)


def error(weight: Float[Array, "D F"], q: Float[Array, "D F"], importance: Float[Array, " D"]) -> float:
    """Return the weighted error of a quantized weight: Σ_df importance_d (q_df − w_df)², in float64."""
    return float(np.sum(importance[:, None] * np.square(q.astype(np.float64) - weight)))


def _into_blocks(weight: Array, block: int) -> Array:
    """Reshape [D, F] to [C, block, F], and fill a short last block with zeros."""
    length, count = weight.shape
    blocks = -(-length // block)
    padded = np.zeros((blocks * block, count), weight.dtype)
    padded[:length] = weight
    return padded.reshape(blocks, block, count)


def _candidates(
    w: Array, bits: int, *, symmetric: bool, halves: bool
) -> Iterator[tuple[Array, Array, Array]]:
    """Yield scale, zero point, and codes minus the zero point by rounding to nearest, for each share of
    the blocks' ranges. The codes are in one buffer, which the next share overwrites."""
    low, high = np.minimum(w.min(axis=1), 0), np.maximum(w.max(axis=1), 0)
    extreme = np.take_along_axis(w, np.argmax(np.abs(w), axis=1, keepdims=True), axis=1)[:, 0]
    c, top, mid = np.empty_like(w), 2**bits - 1, 2 ** (bits - 1)
    for share in SHRINKS:
        step = extreme * share / -mid if symmetric else (high - low) * share / top
        if halves:
            step = half_scales(step, bits=bits)
        if symmetric:
            z = np.full_like(step, mid)
        else:
            z = np.clip(np.rint(-low * share / np.where(step > 0, step, 1)), 0, top)
        yield step, z, _centred(w, step, z, top, c)


def _centred(w: Array, step: Array, z: Array, top: int, out: Array) -> Array:
    """Return the nearest codes minus their zero points. In a block of zeros, whose step is 0, they are 0."""
    np.divide(w, np.where(step == 0, 1, step)[:, None], out=out)
    np.rint(out, out=out)
    return np.clip(out, -z[:, None], (top - z)[:, None], out=out)


def _weighted(weight: Array, block: int, importance: Array) -> tuple[Array, Array]:
    """Return the weights in blocks [C, block, F], and their importances [C, block, 1]."""
    w = _into_blocks(weight, block)
    short = len(w) * block - len(weight)
    return w, np.pad(importance.astype(w.dtype), (0, short)).reshape(len(w), block, 1)


def _fits(
    w: Array, m: Array, bits: int, *, symmetric: bool, halves: bool
) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Yield for each share: the step, the zero point, the best scale for the codes, and by how much the
    error is less than Σ m w²."""
    mw, terms = m * w, np.empty_like(w)
    for share_step, z, c in _candidates(w, bits, symmetric=symmetric, halves=halves):
        product = _block_sums(np.multiply(c, mw, out=terms))
        square = _block_sums(np.multiply(np.square(c, out=terms), m, out=terms))
        best = product / np.where(square > 0, square, 1)
        if halves:
            with np.errstate(over="ignore"):
                is_half = share_step == share_step.astype(np.float16)
            best = np.where(is_half, half_scales(best, bits=bits), best)
        d = np.where((square > 0) & (np.sign(best) == np.sign(share_step)), best, share_step)
        yield share_step, z, d, d * (2 * product - d * square)


def _block_sums(x: Array) -> Array:
    """Return the sum of each block of [C, block, F]: eight sums of every eighth number, added pair by
    pair.

    The sum is written out, so that scales don't depend on the order in which NumPy adds.
    """
    if x.shape[1] % 8:
        return np.sum(x, axis=1)
    partial = x[:, :8].copy()
    for start in range(8, x.shape[1], 8):
        partial += x[:, start : start + 8]
    while partial.shape[1] > 1:
        partial = partial[:, 0::2] + partial[:, 1::2]
    return partial[:, 0]


def least_error(
    weight: Float[Array, "D F"],
    importance: Float[Array, " D"],
    *,
    bits: int,
    block: int,
    symmetric: bool = False,
    halves: bool = False,
) -> Blocks:
    """Quantize a weight in blocks along axis 0, and give each block the scale with the least weighted
    error among the scales tried.

    Several shares of a block's range are tried, or of a symmetric block's extreme. For each share, the
    zero point and codes are computed as in `quantize`, and then the best scale for these codes: d = Σ m c
    w / Σ m c² with c = code − zero. The error is Σ m w² − d (2 Σ m c w − d Σ m c²); only the part that
    depends on the share is compared. The first share with its best scale is never worse than rounding to
    nearest, so the result isn't worse either. With `halves`, the scales of rounding to nearest come from
    `half_scales`. If such a scale is a float16 number, the best scale is the float16 number nearest to d.

    Conventions: ties go to the wider range. If all inputs of a block have importance 0, the block's scale
    is the scale of rounding to nearest.
    """
    length, count = weight.shape
    w, m = _weighted(weight, block, importance)
    shape = (len(w), count)
    step, zero, scale = np.ones(shape, w.dtype), np.zeros(shape, w.dtype), np.zeros(shape, w.dtype)
    most = np.full(shape, -np.inf, w.dtype)
    for share_step, z, d, less in _fits(w, m, bits, symmetric=symmetric, halves=halves):
        better = less > most
        for kept, new in ((most, less), (scale, d), (zero, z), (step, share_step)):
            np.copyto(kept, new, where=better)
    codes = _centred(w, step, zero, 2**bits - 1, np.empty_like(w)) + zero[:, None]
    codes = codes.astype(np.uint8).reshape(len(w) * block, count)[:length]
    return Blocks(codes, scale, None if symmetric else zero.astype(np.uint8), None, bits, block, 0, "none")


def is_as_good(
    weight: Float[Array, "D F"],
    blocks: Blocks,
    importance: Float[Array, " D"],
    *,
    symmetric: bool = False,
    halves: bool = False,
) -> bool:
    """Return whether blocks have zero points and signs of scales that `least_error` might choose. Codes
    and the size of scales aren't compared.

    If an importance is rounded differently, another share may win by a small margin. So the least error
    may differ by `NOISE`.
    """
    if (blocks.zero is None) != symmetric:
        return False
    w, m = _weighted(weight, blocks.block, importance)
    zero = 2 ** (blocks.bits - 1) if blocks.zero is None else blocks.zero
    total = np.sum(m * np.square(w), axis=1)
    most, less = np.zeros_like(total), np.full_like(total, -np.inf)
    for _, z, d, share_less in _fits(w, m, blocks.bits, symmetric=symmetric, halves=halves):
        most = np.maximum(most, share_less)
        fits = (z == zero) & (np.sign(blocks.scale) == np.sign(d))
        less = np.where(fits, np.maximum(less, share_less), less)
    return bool((less >= most - NOISE * (total - most) - NOISE**2 * total).all())


def is_possible(
    weight: Float[Array, "D F"], blocks: Blocks, *, symmetric: bool = False, halves: bool = False
) -> bool:
    """Return whether `least_error` gives these blocks for some importance of the inputs.

    The codes must be the codes of one of the shares, and the scale must be possible for these codes. Σ m c
    w / Σ m c² is a weighted mean of the ratios w / c. So for any m it lies between the least and the
    largest ratio, even if all three are rounded. Verification uses this function, because it has the
    weights but not the importance.
    """
    step = max(1, 2**17 // max(len(weight), 1))
    return (blocks.zero is None) == symmetric and all(
        _is_possible(weight[:, i : i + step], blocks, slice(i, i + step), halves=halves)
        for i in range(0, weight.shape[1], step)
    )


def _is_possible(weight: Array, blocks: Blocks, part: slice, *, halves: bool) -> bool:
    symmetric = blocks.zero is None
    w, q = _into_blocks(weight, blocks.block), _into_blocks(blocks.codes[:, part], blocks.block)
    scale = blocks.scale[:, part].astype(w.dtype)
    zero = 2 ** (blocks.bits - 1) if blocks.zero is None else blocks.zero[:, part]
    filler = ~_into_blocks(np.ones(weight.shape, bool), blocks.block)
    slack = 4 * float(np.finfo(blocks.scale.dtype).eps)
    fits = np.zeros(scale.shape, bool)
    for step, z, c in _candidates(w, blocks.bits, symmetric=symmetric, halves=halves):
        # The scale is looked at only where the codes are those of this share.
        at = np.nonzero(~fits & (z == zero) & ((c + z[:, None] == q) | filler).all(axis=1))
        given, known, centred = step[at][:, None], w[at[0], :, at[1]], c[at[0], :, at[1]]
        # A code of 0 doesn't bound the scale: the step takes the place of its ratio, which is allowed too.
        ratio = np.divide(known, centred, out=np.repeat(given, w.shape[1], axis=1), where=centred != 0)
        least, most = np.minimum(ratio.min(axis=1), step[at]), np.maximum(ratio.max(axis=1), step[at])
        least, most = least - slack * np.abs(least), most + slack * np.abs(most)
        if halves:
            least = np.minimum(least, half_scales(least, bits=blocks.bits))
            most = np.maximum(most, half_scales(most, bits=blocks.bits))
        fits[at] = (scale[at] >= least) & (scale[at] <= most)
        if fits.all():
            return True
    return False
