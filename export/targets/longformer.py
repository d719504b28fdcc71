"""Compute Longformer's attention with basic operators, over joined matrices for queries, keys and values. No
attention operator supports Longformer's mask.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...refimpl.ops.longformer import LongformerAttention, local_and_global
from .group_query_attention import joined_products
from .ort_ops import linear


def longformer_attention(
    x: Tensor,
    lengths: Tensor,
    weights: Any,
    question: Tensor | None = None,
    *,
    settings: LongformerAttention,
) -> Tensor:
    q, k, v = (y.unflatten(-1, (-1, settings.head_size)) for y in joined_products(x, weights))
    y = local_and_global(x, lengths, (q, k, v), weights, question, settings=settings)
    return linear(y.flatten(-2), weights["wo"], weights["bo"])
