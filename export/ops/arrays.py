"""Implement basic array operations in PyTorch, which composite ops use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import dtype as DType
from torch.nn import functional

from ..torch_bodies import torch_body


@torch_body
def indices(count: int, like: Tensor | None = None) -> Tensor:
    """Return the integers 0, 1, … count − 1, as a Range in ONNX."""
    return torch.arange(count, device=None if like is None else like.device)


@torch_body
def between(first: int, end: int, like: Tensor) -> Tensor:
    """Return the integers from `first` to `end` − 1, as a Range in ONNX."""
    return torch.arange(first, end, device=like.device)


@torch_body
def rows_at(table: Tensor, index: Tensor) -> Tensor:
    """Return the rows of a table [N, D] with the given indices, as a Gather in ONNX. Indexing by a tensor
    would become several operators.
    """
    return functional.embedding(index, table)


@torch_body
def tokens_at(x: Tensor, at: Tensor) -> Tensor:
    """Return the entries of x [B, T, …] at the positions `at` [B, P] of each row, as a GatherElements in
    ONNX. For this, all axes after the axis of tokens are joined into one.
    """
    flat = x if x.ndim == 3 else x.flatten(2)
    y = flat.gather(1, at.unsqueeze(-1).expand(-1, -1, flat.shape[-1]))
    return y if x.ndim == 3 else y.unflatten(2, x.shape[2:])


@torch_body
def shifted_right(tokens: Tensor, start: int | Tensor) -> Tensor:
    """Move the tokens [B, T] one place to the right, and put `start` in the first place. torch.roll makes the
    graph the same for every length.
    """
    at = torch.arange(tokens.shape[1], device=tokens.device)
    return torch.where(at > 0, tokens.roll(1, dims=1), start)


@torch_body
def split_last(x: Tensor, size: int) -> Tensor:
    """Split the last axis into heads of `size` numbers, as a Reshape in ONNX."""
    return x.unflatten(-1, (-1, size))


@torch_body
def join_last(x: Tensor) -> Tensor:
    """Join the last two axes into one, as a Reshape in ONNX."""
    return x.flatten(-2)


@torch_body
def join_rows(x: Tensor) -> Tensor:
    """Join the axes of rows and tokens: [B, T, D] becomes [B·T, D], by a Reshape in ONNX."""
    return x.flatten(0, 1)


@torch_body
def split_rows(x: Tensor, like: Tensor) -> Tensor:
    """Undo `join_rows`: x [B·T, D] becomes [B, T, D], by a Reshape in ONNX. B and T are the first two sizes
    of `like`.
    """
    return x.unflatten(0, like.shape[:2])


@torch_body
def as_type(x: Tensor, dtype: DType) -> Tensor:
    """Return x converted to a type, as a Cast in ONNX. If x already has the type, x itself is returned,
    because `to` would add a node that does nothing.
    """
    return x if x.dtype == dtype else x.to(dtype)


@torch_body
def whole(x: Tensor) -> Tensor:
    """Return x converted to 32-bit integers, as a Cast in ONNX."""
    return x.int()


@torch_body
def where(condition: Tensor, x: Tensor | float, y: Tensor | float) -> Tensor:
    """Return x where the condition is true and y elsewhere, as a Where in ONNX."""
    return torch.where(condition, x, y)  # pyright: ignore[reportArgumentType, reportCallIssue]


@torch_body
def exp(x: Tensor) -> Tensor:
    """Compute eˣ for each element, as an Exp in ONNX."""
    return torch.exp(x)


@torch_body
def softplus(x: Tensor) -> Tensor:
    """Compute log(1 + eˣ) for each element, as a Softplus in ONNX.

    Above a threshold, torch returns x itself. torch's default threshold of 20 would cause an error of 2e-9,
    so this function sets the threshold to 40.
    """
    return functional.softplus(x, threshold=40)


@torch_body
def split(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Split the last axis into parts of the given sizes, as a Split in ONNX. If all parts have the same size,
    Split gets the number of parts instead of their sizes.
    """
    return list(x.chunk(len(sizes), -1) if len(set(sizes)) == 1 else x.split(list(sizes), -1))


@torch_body
def each_repeated(x: Tensor, count: int, axis: int) -> Tensor:
    """Repeat each entry along an axis `count` times (a, b becomes a, a, b, b), as Unsqueeze, Expand and
    Reshape in ONNX.
    """
    return x.repeat_interleave(count, dim=axis)


@torch_body
def padded(x: Tensor, before: int, after: int) -> Tensor:
    """Add the given numbers of zero vectors before and after each row's tokens, as a Pad in ONNX."""
    return functional.pad(x, (0, 0, before, after))


@torch_body
def vector(values: Sequence[float], like: Tensor) -> Tensor:
    """Return the given numbers as a vector with the type of `like`, as a constant in ONNX."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)


@torch_body
def concatenate(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Join the parts one after the other along an axis, as a Concat in ONNX."""
    return torch.cat(tuple(parts), axis)


@torch_body
def filled(count: int, value: int, like: Tensor) -> Tensor:
    """Return a vector with `count` copies of an integer, as an Expand in ONNX."""
    return torch.full((count,), value, device=like.device)


@torch_body
def repeated(x: Tensor, count: int, axis: int) -> Tensor:
    """Repeat x `count` times along an axis of length 1, as an Expand in ONNX."""
    return x.expand(*(count if a == axis else -1 for a in range(x.ndim)))


@torch_body
def zeros_like(x: Tensor) -> Tensor:
    """Return zeros with the type and shape of x, as an Expand in ONNX."""
    return torch.zeros_like(x)


@torch_body
def all_true(like: Tensor) -> Tensor:
    """Return an array of True with the shape of `like`, as an Expand in ONNX."""
    return torch.ones_like(like, dtype=torch.bool)


@torch_body
def sqrt(x: Tensor) -> Tensor:
    """Compute √x for each element, as a Sqrt in ONNX."""
    return torch.sqrt(x)


@torch_body
def largest(x: Tensor, axis: int) -> Tensor:
    """Return the largest number along an axis, as a ReduceMax in ONNX. The result no longer has this axis."""
    return x.amax(axis)


@torch_body
def smallest(x: Tensor, axis: int) -> Tensor:
    """Return the smallest number along an axis, as a ReduceMin in ONNX. The result no longer has this
    axis.
    """
    return x.amin(axis)


@torch_body
def token_sum(x: Tensor) -> Tensor:
    """Return the sum over the tokens (axis 1), as a ReduceSum in ONNX."""
    return x.sum(1)


@torch_body
def row_sum(x: Tensor) -> Tensor:
    """Return the sum over the last axis, as a ReduceSum in ONNX. In the result, the last axis has length
    1.
    """
    return x.sum(x.ndim - 1, keepdim=True)


@torch_body
def each_row(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply each row [D] of x by a matrix [D, F], as a MatMul in ONNX."""
    return x @ weight
