"""Compute XLNet's attention with ONNX Runtime's MultiHeadAttention. The score terms for distances and
segments become a bias of the scores.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...refimpl.ops.cross_attention import EncoderKV
from ...refimpl.ops.xlnet import XLNetAttention, distance_vectors, relative_scores
from .group_query_attention import joined_products
from .multi_head_attention import multi_head
from .ort_ops import linear


def xlnet_attention(
    x: Tensor,
    lengths: Tensor,
    weights: Any,
    token_types: Tensor | None = None,
    *,
    settings: XLNetAttention,
) -> Tensor:
    q, k, v = joined_products(x, weights)
    size = settings.head_size
    k_pos = linear(distance_vectors(x, settings=settings), weights["wk_pos"])[0].unflatten(-1, (-1, size))
    q_heads, k_heads = (y.unflatten(-1, (-1, size)) for y in (q, k))
    bias = relative_scores(q_heads, k_heads, k_pos, weights, token_types, settings=settings)
    q = q + weights["content_bias"]
    y = multi_head(q, EncoderKV(k, v, lengths), heads=settings.heads, scale=size**-0.5, bias=bias)
    return linear(y, weights["wo"])
