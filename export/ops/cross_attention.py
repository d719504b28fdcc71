"""Cross-attention: the tokens of one text take what they need from another, the encoder's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..dispatch import seam
from .attention import attend, heads
from .linear import linear
from .mask import padding_mask
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = ["cross_attention", "cross_keys"]


@seam
def cross_keys(
    states: Float[Array, "B S D"],
    wk: Float[Array, "D G*K"] | Blocks,
    wv: Float[Array, "D G*K"] | Blocks,
    bk: Float[Array, " G*K"] | None = None,
    bv: Float[Array, " G*K"] | None = None,
    *,
    head_size: int,
) -> tuple[Float[Array, "B G S K"], Float[Array, "B G S K"]]:
    """Two products, heads before positions."""
    k, v = heads(states, wk, bk, size=head_size), heads(states, wv, bv, size=head_size)
    return k.transpose(1, 2), v.transpose(1, 2)


@seam
def cross_attention(
    x: Float[Array, "B T D"],
    k: Float[Array, "B G S K"],
    v: Float[Array, "B G S K"],
    lengths: Index[Array, " B", "< S+1"],
    wq: Float[Array, "D H*K"] | Blocks,
    wo: Float[Array, "H*K D"] | Blocks,
    bq: Float[Array, " H*K"] | None = None,
    bo: Float[Array, " D"] | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "B T D"]:
    """Projections around `attend`, over keys that lie as in a cache."""
    q = heads(x, wq, bq, size=k.shape[-1])
    seen = padding_mask(torch.arange(k.shape[2], device=k.device), lengths)
    mask = seen.unsqueeze(1).expand(-1, x.shape[1], -1)
    y = attend(q, k.transpose(1, 2), v.transpose(1, 2), mask, scale=scale, softcap=softcap)
    return linear(y.flatten(-2), wo, bo)
