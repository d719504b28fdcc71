"""The array operations that ops need besides arithmetic, comparisons and indexing.

Some operations have different names in NumPy and other libraries, or one name means different operations.
This module gives each of them one name. Operations with the same name everywhere are used directly: `abs`,
`@`, `shape`, `ndim`, `dtype`, `T`, `swapaxes`, `squeeze`, `clip`, `sum` and `mean`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, DType


@op
def indices(count: int, like: Array | None = None) -> Array:
    """Return 0, 1, … count − 1 as integers, on the device of `like`."""
    return np.arange(count)


@op
def between(first: int, end: int, like: Array) -> Array:
    """Return the integers from `first` to `end` − 1, on the device of `like`."""
    return np.arange(first, end)


def following(past: Array, count: int) -> Array:
    """Return the positions [B, T] of `count` tokens that follow `past` [B] earlier tokens in each row."""
    return past[:, None] + indices(count, past)


@op
def rows_at(table: Array, index: Array) -> Array:
    """Return table[index]: the rows [..., D] of a table [N, D] with these indices."""
    return table[index]


@op
def tokens_at(x: Array, at: Array) -> Array:
    """Return the entries [B, P, …] of x [B, T, …] at the positions `at` [B, P] of each row."""
    return np.take_along_axis(x, at.reshape(*at.shape, *(1,) * (x.ndim - 2)), axis=1)


@op
def shifted_right(tokens: Array, start: int | Array) -> Array:
    """Move the tokens [B, T] one place to the right, and drop the last token. `start` becomes the first
    token: a number, or an array [B, 1].
    """
    return np.concatenate([np.full_like(tokens[:, :1], start), tokens[:, :-1]], axis=1)


@op
def split_last(x: Array, size: int) -> Array:
    """Split the last axis into heads of `size` numbers: [..., H·K] becomes [..., H, K]."""
    return x.reshape(*x.shape[:-1], x.shape[-1] // size, size)


@op
def join_last(x: Array) -> Array:
    """Join the last two axes: [..., H, K] becomes [..., H·K]."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


@op
def join_rows(x: Array) -> Array:
    """Put the tokens of all rows in one axis: [B, T, D] becomes [B·T, D]."""
    return x.reshape(-1, x.shape[-1])


@op
def split_rows(x: Array, like: Array) -> Array:
    """Undo `join_rows`: x [B·T, D] becomes [B, T, D]. B and T are the first two sizes of `like` [B, T, …]."""
    return x.reshape(*like.shape[:2], x.shape[-1])


@op
def as_type(x: Array, dtype: DType) -> Array:
    """Return x rounded to the given type. The type must belong to the same library as x, for example
    NumPy.
    """
    return x.astype(dtype, copy=False)


@op
def whole(x: Array) -> Array:
    """Return x converted to 32-bit integers."""
    return x.astype(np.int32)


@op
def where(condition: Array, x: Array | float, y: Array | float) -> Array:
    """Return x where the condition is true, and y elsewhere."""
    return np.where(condition, x, y)


@op
def exp(x: Array) -> Array:
    """Compute eˣ for each element."""
    return np.exp(x)


@op
def softplus(x: Array) -> Array:
    """Compute log(1 + eˣ) for each element."""
    return np.logaddexp(0, x)


@op
def split(x: Array, sizes: Sequence[int]) -> list[Array]:
    """Split the last axis into parts of the given sizes."""
    return np.split(x, np.cumsum(sizes[:-1]), axis=-1)


@op
def each_repeated(x: Array, count: int, axis: int) -> Array:
    """Repeat each entry along an axis `count` times, one after another: a, b becomes a, a, b, b."""
    return np.repeat(x, count, axis=axis)


@op
def padded(x: Array, before: int, after: int) -> Array:
    """Return x [B, T, D] with the given numbers of zero vectors before and after the tokens of each row."""
    return np.pad(x, ((0, 0), (before, after), (0, 0)))


@op
def vector(values: Sequence[float], like: Array) -> Array:
    """Return the given numbers as a vector with the type and device of `like`."""
    return np.array(values, like.dtype)


@op
def concatenate(parts: Sequence[Array], axis: int) -> Array:
    """Join the parts one after the other along an axis."""
    return np.concatenate(parts, axis=axis)


@op
def filled(count: int, value: int, like: Array) -> Array:
    """Return a vector with `count` copies of an integer, on the device of `like`."""
    return np.full(count, value)


@op
def repeated(x: Array, count: int, axis: int) -> Array:
    """Repeat x `count` times along an axis of length 1."""
    return np.broadcast_to(x, (*x.shape[:axis], count, *x.shape[axis + 1 :]))


@op
def zeros_like(x: Array) -> Array:
    """Return zeros with the type and shape of x."""
    return np.zeros_like(x)


@op
def all_true(like: Array) -> Array:
    """Return an array of True with the shape of `like`."""
    return np.ones(like.shape, bool)


@op
def sqrt(x: Array) -> Array:
    """Compute √x for each element."""
    return np.sqrt(x)


@op
def largest(x: Array, axis: int) -> Array:
    """Return the largest number along an axis. The result no longer has this axis."""
    return np.max(x, axis=axis)


@op
def smallest(x: Array, axis: int) -> Array:
    """Return the smallest number along an axis. The result no longer has this axis."""
    return np.min(x, axis=axis)


@op
def token_sum(x: Array) -> Array:
    """Return the sum of x [B, T, …] over the tokens, which are axis 1."""
    return np.sum(x, axis=1)


@op
def row_sum(x: Array) -> Array:
    """Return the sum over the last axis. In the result, the last axis has length 1."""
    return np.sum(x, axis=-1, keepdims=True)


@op
def each_row(x: Array, weight: Array) -> Array:
    """Compute x @ weight: each row [D] of x [..., D] is multiplied by a matrix [D, F]."""
    # One product for all rows: NumPy computes a stack of B small products without BLAS.
    return (x.reshape(-1, x.shape[-1]) @ weight).reshape(*x.shape[:-1], weight.shape[1])
