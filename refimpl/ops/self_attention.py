"""Self-attention without a cache: a text is there as a whole, and seen so, or up to each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from .attention import attend, heads
from .linear import linear
from .mask import causal_mask, padding_mask, window_mask
from .position import rotate
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from ..axes import Index

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
    """Project to queries, keys and values; each sees the first `lengths[b]` tokens; project back.

    Conventions: as in `attention`, but unless it is `causal` later tokens are seen, and a window reaches
    both ways. Rows are padded on the right: no token sees padding, and what comes out at padding is
    unspecified.
    """
    b, t, _ = x.shape
    q = heads(x, wq, bq, q_norm, clip=clip, kind=norm_kind, eps=norm_eps, size=head_size)
    k = heads(x, wk, bk, k_norm, clip=clip, kind=norm_kind, eps=norm_eps, size=head_size)
    v = heads(x, wv, bv, clip=clip, size=head_size)
    if cos is not None and sin is not None:
        q = rotate(q, cos[None], sin[None], interleaved=interleaved)
        k = rotate(k, cos[None], sin[None], interleaved=interleaved)
    at = np.arange(t)
    near = (causal_mask if causal else window_mask)(at[None], at, window=window)
    mask = near & padding_mask(at, lengths)[:, None]
    y = attend(q, k, v, mask, bias, scale=scale, softcap=softcap)
    return linear(y.reshape(b, t, -1), wo, bo)
