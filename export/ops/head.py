"""Pooling: from one vector per token to one vector per text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from ...refimpl.ops.mask import padding_mask
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index


@torch_body
def pool(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    *,
    pooling: Literal["first", "last", "mean", "max"],
) -> Float[Array, "B D"]:
    """Padding is multiplied by zero or filled with the lowest number; a single token is gathered by its
    index."""
    some = (lengths > 0).unsqueeze(-1)
    if pooling in ("first", "last"):
        at = torch.zeros_like(lengths) if pooling == "first" else (lengths - 1).clamp(min=0)
        y = x.gather(1, at.view(-1, 1, 1).expand(-1, -1, x.shape[-1])).squeeze(1)
        return y.masked_fill(~some, 0)
    real = padding_mask(torch.arange(x.shape[1], device=x.device), lengths).unsqueeze(-1)
    if pooling == "mean":
        return x.masked_fill(~real, 0).sum(1) / lengths.clamp(min=1).unsqueeze(-1).to(x.dtype)
    return x.masked_fill(~real, torch.finfo(x.dtype).min).amax(1).masked_fill(~some, 0)


@torch_body
def unit(x: Float[Array, "B D"], *, eps: float = 1e-12) -> Float[Array, "B D"]:
    """Div by the clamped root of a dot product."""
    return x / (x * x).sum(-1, keepdim=True).sqrt().clamp(min=eps)
