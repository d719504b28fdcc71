"""Compute LongT5's attention with basic operators, over joined matrices for queries, keys and values. No
attention operator supports LongT5's summaries.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...refimpl.ops.longt5 import DistanceBiases, LongT5Attention, near_and_far, with_summaries
from .group_query_attention import joined_products
from .ort_ops import linear


def longt5_attention(
    x: Tensor,
    lengths: Tensor,
    weights: Any,
    biases: DistanceBiases,
    *,
    settings: LongT5Attention,
) -> Tensor:
    read = with_summaries(x, lengths, weights.get("global_norm"), settings=settings)
    q, k, v = (y.unflatten(-1, (-1, settings.head_size)) for y in joined_products(read, weights))
    y = near_and_far((q, k, v), lengths, biases, x.shape[1], settings=settings)
    return linear(y.flatten(-2), weights["wo"])
