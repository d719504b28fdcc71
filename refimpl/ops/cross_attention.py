"""Cross-attention: the tokens of one text take what they need from another, the encoder's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .attention import attend, heads
from .linear import linear
from .mask import padding_mask
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from ..axes import Index

__all__ = ["cross_attention", "cross_keys"]


def cross_keys(
    states: Float[Array, "B S D"],
    wk: Float[Array, "D G*K"] | Blocks,
    wv: Float[Array, "D G*K"] | Blocks,
    bk: Float[Array, " G*K"] | None = None,
    bv: Float[Array, " G*K"] | None = None,
    *,
    head_size: int,
) -> tuple[Float[Array, "B G S K"], Float[Array, "B G S K"]]:
    """Keys and values of the encoder's states: the same for each step of a decoder, so computed once.

    Conventions: laid out as the cache is.
    """
    k, v = heads(states, wk, bk, size=head_size), heads(states, wv, bv, size=head_size)
    return k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)


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
    """Each token sees the first `lengths[b]` keys (Vaswani et al. 2017, §3.2.3).

    Conventions: neither positions nor a causal mask: the other text is there as a whole.
    """
    b, t, _ = x.shape
    q = heads(x, wq, bq, size=k.shape[3])
    seen = padding_mask(np.arange(k.shape[2]), lengths)
    mask = np.broadcast_to(seen[:, None], (b, t, k.shape[2]))
    y = attend(q, k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3), mask, scale=scale, softcap=softcap)
    return linear(y.reshape(b, t, -1), wo, bo)
