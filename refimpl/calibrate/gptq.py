"""GPTQ (Frantar et al. 2022): codes chosen one after another, each paying for the errors before it.

For y = x · W the squared error of the output is tr(Eᵀ H E), E the error of W and H = Σ xᵀx. A row of
W that was rounded leaves an error; the rows still to come are moved to where they make up for it.
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

__all__ = ["Hessian", "error", "gptq", "hessian"]


class Hessian(NamedTuple):
    """Σ xᵀx over so many inputs, float64."""

    total: Float[Array, "D D"]
    inputs: int


def hessian(state: Hessian | None, x: Float[Array, "M D"]) -> Hessian:
    """The sum with the inputs [M, D] in it. Its scale doesn't matter: all steps are ratios."""
    x = x.astype(np.float64)
    total = x.T @ x
    return Hessian(total, len(x)) if state is None else Hessian(state.total + total, state.inputs + len(x))


def error(weight: Float[Array, "D F"], q: Blocks, h: Hessian) -> float:
    """The mean over inputs of |x · W − x · Ŵ|² = tr(Eᵀ H E) / inputs."""
    e = weight.astype(np.float64) - quant.dequantize(q)
    return float(np.einsum("df,de,ef->", e, h.total, e, optimize=True)) / max(h.inputs, 1)


def _factor(total: Float[Array, "D D"], damping: float) -> Float[Array, "D D"]:
    """The upper Cholesky factor U of H⁻¹ = Uᵀ U: row i holds what rounding i does to those after it."""
    h = total.copy()
    diagonal = np.einsum("ii->i", h)
    # An input that is always 0 says nothing about its row: it is rounded to nearest, for itself.
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
    order: bool = False,
) -> Blocks:
    """The weight in blocks along axis 0, as `quant.quantize` lays them out, with better codes.

    Row by row (algorithm 1 of the paper, for W transposed): q = the nearest number of the row's
    scale; each row j after it changes by −(w_i − q) / U_ii · U_ij, with U the Cholesky factor of the
    damped inverse. Rows further on than `batch` get the changes of a batch at once, which is the same
    with fewer passes. Conventions: H gets `damping` times its mean diagonal; a block's scales are those
    of `quant.quantize` for its rows as they are when their turn comes. With `order`, rows go by falling
    H_ii, and scales are those of the weight as it was, since a block's rows no longer come together.

    The choice is greedy, so the error may be larger than round-to-nearest's: at 2 bits, in the rows' own
    order, it sometimes is. Raises NumericError when H can't be inverted.
    """
    d, width = weight.shape
    w = weight.astype(np.float64)
    given = {"bits": bits, "block": block, "symmetric": symmetric}
    first = quant.quantize(weight, **given)
    turn = np.argsort(-np.diag(h.total), kind="stable") if order else np.arange(d)
    u = _factor(h.total[np.ix_(turn, turn)], damping)
    codes, scale = np.empty((d, width), np.uint8), first.scale.copy()
    zero = None if first.zero is None else first.zero.copy()
    for begin in range(0, d, batch):
        end = min(begin + batch, d)
        errors = np.zeros((end - begin, width))
        for i in range(begin, end):
            row = turn[i]
            c = row // block
            if not order and row % block == 0:
                # Rows of this block beyond the batch haven't had the batch's changes yet.
                rows = slice(i, min(i + block, d))
                now = w[rows] - u[begin:i, rows].T @ errors[: i - begin]
                now[: end - i] = w[i : min(end, i + block)]
                made = quant.quantize(now.astype(weight.dtype), **given)
                scale[c] = made.scale[0]
                if zero is not None and made.zero is not None:
                    zero[c] = made.zero[0]
            middle = 2 ** (bits - 1) if zero is None else zero[c].astype(np.int64)
            step = scale[c].astype(np.float64)
            codes[row] = np.clip(np.rint(w[row] / np.where(step == 0, 1, step)) + middle, 0, 2**bits - 1)
            left = (w[row] - step * (codes[row].astype(np.int64) - middle)) / u[i, i]
            errors[i - begin] = left
            later = turn[i + 1 : end]
            w[later] -= u[i, i + 1 : end, None] * left
        w[turn[end:]] -= u[begin:end, end:].T @ errors
    return Blocks(codes, scale, zero, None, bits, block, 0, first.activations)
