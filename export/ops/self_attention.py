"""Self-attention without a cache: a text is there as a whole, and seen so, or up to each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from ..dispatch import seam
from .attention import attend, heads
from .linear import linear
from .mask import causal_mask, padding_mask, window_mask
from .position import rotate
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = ["self_attention"]


@seam
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
    q_norm: Float[Array, " K"] | Float[Array, "H K"] | Float[Array, " H*K"] | None = None,
    k_norm: Float[Array, " K"] | Float[Array, "G K"] | Float[Array, " G*K"] | None = None,
    cos: Float[Array, "T J"] | None = None,
    sin: Float[Array, "T J"] | None = None,
    bias: Float[Array, "B H T T"] | None = None,
    *,
    head_size: int,
    causal: bool = False,
    norm_eps: float = 1e-6,
    norm_kind: Literal["rms", "layer"] = "rms",
    clip: float | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    interleaved: bool = False,
) -> Float[Array, "B T D"]:
    """Projections, rotary, mask and attention."""
    q = heads(x, wq, bq, q_norm, clip=clip, kind=norm_kind, eps=norm_eps, size=head_size)
    k = heads(x, wk, bk, k_norm, clip=clip, kind=norm_kind, eps=norm_eps, size=head_size)
    v = heads(x, wv, bv, clip=clip, size=head_size)
    if cos is not None and sin is not None:
        c, s = cos.unsqueeze(0), sin.unsqueeze(0)
        q, k = rotate(q, c, s, interleaved=interleaved), rotate(k, c, s, interleaved=interleaved)
    at = torch.arange(x.shape[1], device=x.device)
    near = causal_mask if causal else window_mask
    mask = padding_mask(at, lengths).unsqueeze(1) & near(at.unsqueeze(0), at, window=window)
    y = attend(q, k, v, mask, bias, scale=scale, softcap=softcap)
    return linear(y.flatten(-2), wo, bo)
