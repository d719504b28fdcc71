"""Basic operations on arrays in PyTorch, which composite ops use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import dtype as DType
from torch.nn import functional

from ..torch_bodies import torch_body


@torch_body
def indices(count: int, like: Tensor | None = None) -> Tensor:
    """Exported to ONNX as Range."""
    return torch.arange(count, device=None if like is None else like.device)


@torch_body
def between(first: int, end: int, like: Tensor) -> Tensor:
    """Exported to ONNX as Range."""
    return torch.arange(first, end, device=like.device)


@torch_body
def rows_at(table: Tensor, index: Tensor) -> Tensor:
    """Exported to ONNX as Gather. Indexing by a tensor would become several operators."""
    return functional.embedding(index, table)


@torch_body
def tokens_at(x: Tensor, at: Tensor) -> Tensor:
    """Exported to ONNX as GatherElements, with all axes after the axis of tokens joined into one."""
    flat = x if x.ndim == 3 else x.flatten(2)
    y = flat.gather(1, at.unsqueeze(-1).expand(-1, -1, flat.shape[-1]))
    return y if x.ndim == 3 else y.unflatten(2, x.shape[2:])


@torch_body
def shifted_right(tokens: Tensor, start: int | Tensor) -> Tensor:
    """Shift by torch.roll, so that the graph is the same for every length."""
    at = torch.arange(tokens.shape[1], device=tokens.device)
    return torch.where(at > 0, tokens.roll(1, dims=1), start)


@torch_body
def split_last(x: Tensor, size: int) -> Tensor:
    """Exported to ONNX as Reshape."""
    return x.unflatten(-1, (-1, size))


@torch_body
def join_last(x: Tensor) -> Tensor:
    """Exported to ONNX as Reshape."""
    return x.flatten(-2)


@torch_body
def join_rows(x: Tensor) -> Tensor:
    """Exported to ONNX as Reshape."""
    return x.flatten(0, 1)


@torch_body
def split_rows(x: Tensor, like: Tensor) -> Tensor:
    """Exported to ONNX as Reshape."""
    return x.unflatten(0, like.shape[:2])


@torch_body
def as_type(x: Tensor, dtype: DType) -> Tensor:
    """Exported to ONNX as Cast. An x that already has the type is returned unchanged, because `to` would add
    a node that does nothing.
    """
    return x if x.dtype == dtype else x.to(dtype)


@torch_body
def whole(x: Tensor) -> Tensor:
    """Exported to ONNX as Cast."""
    return x.int()


@torch_body
def where(condition: Tensor, x: Tensor | float, y: Tensor | float) -> Tensor:
    """Exported to ONNX as Where."""
    return torch.where(condition, x, y)  # pyright: ignore[reportArgumentType, reportCallIssue]


@torch_body
def exp(x: Tensor) -> Tensor:
    """Exported to ONNX as Exp."""
    return torch.exp(x)


@torch_body
def softplus(x: Tensor) -> Tensor:
    """Exported to ONNX as Softplus. Above a threshold, torch returns x itself. torch's default threshold of
    20 would cause an error of 2e-9, so a higher one is given.
    """
    return functional.softplus(x, threshold=40)


@torch_body
def split(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Exported to ONNX as Split. If the parts are equal, Split gets their number instead of their sizes."""
    return list(x.chunk(len(sizes), -1) if len(set(sizes)) == 1 else x.split(list(sizes), -1))


@torch_body
def each_repeated(x: Tensor, count: int, axis: int) -> Tensor:
    """Exported to ONNX as Unsqueeze, Expand and Reshape."""
    return x.repeat_interleave(count, dim=axis)


@torch_body
def padded(x: Tensor, before: int, after: int) -> Tensor:
    """Exported to ONNX as Pad."""
    return functional.pad(x, (0, 0, before, after))


@torch_body
def vector(values: Sequence[float], like: Tensor) -> Tensor:
    """Exported to ONNX as a constant."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)


@torch_body
def concatenate(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Exported to ONNX as Concat."""
    return torch.cat(tuple(parts), axis)


@torch_body
def filled(count: int, value: int, like: Tensor) -> Tensor:
    """Exported to ONNX as Expand."""
    return torch.full((count,), value, device=like.device)


@torch_body
def repeated(x: Tensor, count: int, axis: int) -> Tensor:
    """Exported to ONNX as Expand."""
    return x.expand(*(count if a == axis else -1 for a in range(x.ndim)))


@torch_body
def zeros_like(x: Tensor) -> Tensor:
    """Exported to ONNX as Expand."""
    return torch.zeros_like(x)


@torch_body
def all_true(like: Tensor) -> Tensor:
    """Exported to ONNX as Expand."""
    return torch.ones_like(like, dtype=torch.bool)


@torch_body
def sqrt(x: Tensor) -> Tensor:
    """Exported to ONNX as Sqrt."""
    return torch.sqrt(x)


@torch_body
def largest(x: Tensor, axis: int) -> Tensor:
    """Exported to ONNX as ReduceMax."""
    return x.amax(axis)


@torch_body
def smallest(x: Tensor, axis: int) -> Tensor:
    """Exported to ONNX as ReduceMin."""
    return x.amin(axis)


@torch_body
def token_sum(x: Tensor) -> Tensor:
    """Exported to ONNX as ReduceSum."""
    return x.sum(1)


@torch_body
def row_sum(x: Tensor) -> Tensor:
    """Exported to ONNX as ReduceSum."""
    return x.sum(x.ndim - 1, keepdim=True)


@torch_body
def each_row(x: Tensor, weight: Tensor) -> Tensor:
    """Exported to ONNX as MatMul."""
    return x @ weight
