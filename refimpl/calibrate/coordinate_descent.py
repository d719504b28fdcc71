"""Coordinate descent (QuantEase, Behdin et al. 2023): each code compensates the errors of all others.

For y = x · W, the squared error of the output is tr(Eᵀ H E), where E = W − Ŵ is the rounding error and H = Σ
xᵀx. As a function of one number Ŵ_df, this error is a parabola with its minimum at

    Ŵ_df + (H E)_df / H_dd = W_df + Σ_{j≠d} H_dj E_jf / H_dd

So given all other codes, the best code is the one that is nearest to this number. Rows of codes are chosen in
turn until no code changes. Each change reduces the error, so the algorithm ends, and the final error is never
larger than at the beginning. GPTQ (Frantar et al. 2022) passes over the rows once, and compensates only the
errors of earlier rows. On IgLM, GPTQ's codes give a KL divergence of 0.0111, the codes of this algorithm
0.0079, and codes rounded to nearest 0.0286.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..ops import quant
from ..ops.quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

MARGIN = 1e-6  # of a step: what a code must be nearer by to take another's place
COLUMNS = 4096  # at a time, so that a table's float64 numbers aren't in memory at once


class Hessian(NamedTuple):
    """Σ xᵀx over a number of inputs, float64."""

    total: Float[Array, "D D"]
    inputs: int


def hessian(state: Hessian | None, x: Float[Array, "M D"]) -> Hessian:
    """Add the inputs [M, D] to the sum, and return the new sum. The products are computed in the inputs'
    type.

    The scale of the sum doesn't matter, since all steps are ratios.
    """
    total = (x.T @ x).astype(np.float64)
    return Hessian(total, len(x)) if state is None else Hessian(state.total + total, state.inputs + len(x))


def output_error(weight: Float[Array, "D F"], q: Blocks, h: Hessian) -> float:
    """The mean over inputs of |x · W − x · Ŵ|² = tr(Eᵀ H E) / inputs."""
    e = _error(weight, q)
    return float(np.einsum("df,de,ef->", e, h.total, e, optimize=True)) / max(h.inputs, 1)


def damped(h: Hessian, damping: float = 0.1) -> Float[Array, "D D"]:
    """Return H with `damping` times the mean of its diagonal added to its diagonal.

    On IgLM in blocks of 32, with a calibration text that the model sampled, dampings of 0.01, 0.03, 0.1 and
    0.3 give KL divergences of 0.0069, 0.0060, 0.0058 and 0.0057. Another sampled text changes each figure by
    about a tenth. Conventions: an input that is always 0 counts as 1, so its row is rounded to nearest,
    independently of the others.
    """
    total = h.total.copy()
    diagonal = np.einsum("ii->i", total)
    diagonal[diagonal == 0] = 1
    diagonal += damping * diagonal.mean()
    return total


def coordinate_descent(
    weight: Float[Array, "D F"], total: Float[Array, "D D"], blocks: Blocks, *, batch: int = 64
) -> Blocks:
    """Return the weight with the scales and zero points of these blocks along axis 0, and better codes.

    `total` is the damped H of the input. In the result, no change of a single code reduces the error further.
    Columns are independent: a column is finished when none of its codes changes. One matrix product applies
    the changes of a `batch` of rows to all rows. Conventions: rows of small H_dd are chosen first, equal ones
    in order. They compensate rows of large H_dd before these move: on the decoder of `tests/train`, this
    leaves 0.91 of the error that the rows' own order leaves. A code changes only if another code is nearer by
    `MARGIN`, so that rounding errors don't make it alternate.
    """
    parts = [_descended(w, total, part, batch) for w, part in _parts(weight, blocks)]
    return replace(blocks, codes=np.concatenate(parts, axis=1))


def _descended(weight: Array, total: Array, blocks: Blocks, batch: int) -> Array:
    """The codes of some columns."""
    order = np.argsort(np.diag(total), kind="stable")
    total, slope = total[np.ix_(order, order)], (total @ _error(weight, blocks))[order]
    chosen, diagonal, top = blocks.codes[order], np.diag(total), 2**blocks.bits - 1
    columns, scale = np.arange(weight.shape[1]), quant.spread(blocks.scale.astype(np.float64), blocks)[order]
    while columns.size:
        codes, changed = chosen[:, columns].astype(np.float64), np.zeros(columns.size, bool)
        for begin in range(0, len(weight), batch):
            end = min(begin + batch, len(weight))
            moved = np.zeros((end - begin, columns.size))
            for i in range(begin, end):
                off = _steps((slope[i] - total[i, begin:i] @ moved[: i - begin]) / diagonal[i], scale[i])
                new = np.where(np.abs(off) > 0.5 + MARGIN, np.clip(np.rint(codes[i] + off), 0, top), codes[i])
                moved[i - begin], codes[i] = (new - codes[i]) * scale[i], new
            some = np.flatnonzero(moved.any(axis=0))
            slope[:, some] -= total[:, begin:end] @ moved[:, some]
            changed[some] = True
        chosen[:, columns] = codes
        columns, slope, scale = columns[changed], slope[:, changed], scale[:, changed]
    return chosen[np.argsort(order)]


def _parts(weight: Array, blocks: Blocks) -> Iterator[tuple[Array, Blocks]]:
    """A weight and its blocks by columns, some at a time."""
    for start in range(0, max(weight.shape[1], 1), COLUMNS):
        part = slice(start, start + COLUMNS)
        zero = None if blocks.zero is None else blocks.zero[:, part]
        some = replace(blocks, codes=blocks.codes[:, part], scale=blocks.scale[:, part], zero=zero)
        yield weight[:, part], some


def distance(weight: Float[Array, "D F"], total: Float[Array, "D D"], blocks: Blocks) -> float:
    """Return the largest distance, in steps, between a code and the number that is best in its place.

    The best number is the one that the code should round, given all other codes. For codes of
    `coordinate_descent`, the distance is at most 1/2, apart from rounding errors. If the best number is
    beyond the last code, the last code counts as exact. A wrong code increases the distance, and so do the
    codes that depend on it.
    """
    return max(_distance(w, total, part) for w, part in _parts(weight, blocks))


def _distance(weight: Array, total: Array, blocks: Blocks) -> float:
    scale = quant.spread(blocks.scale.astype(np.float64), blocks)
    off = _steps(total @ _error(weight, blocks) / np.diag(total)[:, None], scale)
    best = np.clip(blocks.codes + off, 0, 2**blocks.bits - 1)
    return float(np.abs(best - blocks.codes).max(initial=0))


def _error(weight: Array, blocks: Blocks) -> Array:
    """W − Ŵ, in float64."""
    return weight - quant.dequantize(replace(blocks, scale=blocks.scale.astype(np.float64)))


def _steps(x: Array, scale: Array) -> Array:
    """Numbers in steps of their scales; 0 where a scale is 0, since each code says the same there."""
    return np.divide(x, scale, out=np.zeros_like(x), where=scale != 0)
