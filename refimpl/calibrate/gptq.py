"""GPTQ (Frantar et al. 2022): rows are rounded one after another; later rows compensate the errors so far.

For y = x · W the squared error of the output is tr(Eᵀ H E), where E is the error of W and H = Σ xᵀx. After a
row of W is rounded, the rows still to come are moved so that they reduce this error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import NumericError
from ..ops import quant
from ..ops.quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

__all__ = ["Hessian", "gptq", "hessian", "output_error"]


class Hessian(NamedTuple):
    """Σ xᵀx over a number of inputs, float64."""

    total: Float[Array, "D D"]
    inputs: int


def hessian(state: Hessian | None, x: Float[Array, "M D"]) -> Hessian:
    """The sum with the inputs [M, D] added. Its scale doesn't matter, since all steps are ratios."""
    x = x.astype(np.float64)
    total = x.T @ x
    return Hessian(total, len(x)) if state is None else Hessian(state.total + total, state.inputs + len(x))


def output_error(weight: Float[Array, "D F"], q: Blocks, h: Hessian) -> float:
    """The mean over inputs of |x · W − x · Ŵ|² = tr(Eᵀ H E) / inputs."""
    e = weight.astype(np.float64) - quant.dequantize(q)
    return float(np.einsum("df,de,ef->", e, h.total, e, optimize=True)) / max(h.inputs, 1)


def _factor(total: Float[Array, "D D"], damping: float) -> Float[Array, "D D"]:
    """The upper Cholesky factor U of H⁻¹ = Uᵀ U; row i is the effect of rounding row i on later rows."""
    h = total.copy()
    diagonal = np.einsum("ii->i", h)
    # The row of an input that is always 0 is rounded to nearest, independently of the others.
    diagonal[diagonal == 0] = 1
    diagonal += damping * diagonal.mean()
    try:
        return np.linalg.cholesky(np.linalg.inv(h)).T
    except np.linalg.LinAlgError:
        raise NumericError(f"the Hessian isn't positive definite with damping {damping}: use more") from None


def gptq(
    weight: Float[Array, "D F"],
    h: Hessian,
    *,
    bits: int,
    block: int,
    symmetric: bool = True,
    damping: float = 0.01,
    batch: int = 128,
    act_order: bool = False,
) -> Blocks:
    """The weight in blocks along axis 0, as `quant.quantize` lays them out, with better codes.

    Row by row (algorithm 1 of the paper, for W transposed): q = the nearest number of the row's
    scale; each row j after it changes by −(w_i − q) / U_ii · U_ij, with U the Cholesky factor of the
    damped inverse. Rows beyond the current `batch` get its changes at once, which is the same with fewer
    passes. Conventions: `damping` times the mean of H's diagonal is added to it; a block's scales are those
    of `quant.quantize` for its rows when the first of them is rounded. With `act_order`, rows go by
    decreasing H_ii, and scales are those of the original weight, since a block's rows aren't neighbours then.

    The choice is greedy, so the error may be larger than round-to-nearest's: at 2 bits, in the rows' own
    order, it sometimes is. Raises NumericError when H can't be inverted.
    """
    d, width = weight.shape
    w = weight.astype(np.float64)
    scheme = {"bits": bits, "block": block, "symmetric": symmetric}
    first = quant.quantize(weight, **scheme)
    order = np.argsort(-np.diag(h.total), kind="stable") if act_order else np.arange(d)
    u = _factor(h.total[np.ix_(order, order)], damping)
    codes, scale = np.empty((d, width), np.uint8), first.scale.copy()
    zero = None if first.zero is None else first.zero.copy()
    for begin in range(0, d, batch):
        end = min(begin + batch, d)
        errors = np.zeros((end - begin, width))
        for i in range(begin, end):
            row = order[i]
            c = row // block
            if not act_order and row % block == 0:
                # Rows of this block beyond the batch don't have the batch's changes yet.
                rows = slice(i, min(i + block, d))
                current = w[rows] - u[begin:i, rows].T @ errors[: i - begin]
                current[: end - i] = w[i : min(end, i + block)]
                rounded = quant.quantize(current.astype(weight.dtype), **scheme)
                scale[c] = rounded.scale[0]
                if zero is not None and rounded.zero is not None:
                    zero[c] = rounded.zero[0]
            middle = 2 ** (bits - 1) if zero is None else zero[c].astype(np.int64)
            step = scale[c].astype(np.float64)
            codes[row] = np.clip(np.rint(w[row] / np.where(step == 0, 1, step)) + middle, 0, 2**bits - 1)
            remainder = (w[row] - step * (codes[row].astype(np.int64) - middle)) / u[i, i]
            errors[i - begin] = remainder
            later = order[i + 1 : end]
            w[later] -= u[i, i + 1 : end, None] * remainder
        w[order[end:]] -= u[begin:end, end:].T @ errors
    return Blocks(codes, scale, zero, None, bits, block, 0, first.activations)
