"""Self-attention without a cache: every token of a text sees the whole text, as in an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .attention import attend, heads
from .linear import linear
from .mask import padding_mask, window_mask
from .position import rotate
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = ["self_attention"]


def self_attention(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    wq: Float[Array, "D H*K"] | Blocks,
    wk: Float[Array, "D G*K"] | Blocks,
    wv: Float[Array, "D G*K"] | Blocks,
    wo: Float[Array, "H*K D"] | Blocks,
    bq: Float[Array, " H*K"] | None = None,
    bk: Float[Array, " G*K"] | None = None,
    bv: Float[Array, " G*K"] | None = None,
    bo: Float[Array, " D"] | None = None,
    q_norm: Float[Array, " K"] | None = None,
    k_norm: Float[Array, " K"] | None = None,
    cos: Float[Array, "T J"] | None = None,
    sin: Float[Array, "T J"] | None = None,
    bias: Float[Array, "B H T T"] | None = None,
    *,
    head_size: int,
    norm_eps: float = 1e-6,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    interleaved: bool = False,
) -> Float[Array, "B T D"]:
    """Projections, rotary, mask and attention."""
    q = heads(x, wq, bq, q_norm, size=head_size, eps=norm_eps)
    k = heads(x, wk, bk, k_norm, size=head_size, eps=norm_eps)
    v = heads(x, wv, bv, size=head_size)
    if cos is not None and sin is not None:
        c, s = cos.unsqueeze(0), sin.unsqueeze(0)
        q, k = rotate(q, c, s, interleaved=interleaved), rotate(k, c, s, interleaved=interleaved)
    at = torch.arange(x.shape[1], device=x.device)
    mask = padding_mask(at, lengths).unsqueeze(1) & window_mask(at.unsqueeze(0), at, window=window)
    y = attend(q, k, v, mask, bias, scale=scale, softcap=softcap)
    return linear(y.flatten(-2), wo, bo)
