"""ConvBERT's attention over joined matrices. No operator has kernels of a token's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...refimpl.ops.convbert import ConvBertAttention, near_and_far
from .group_query_attention import joined_products
from .ort_ops import linear


def convbert_attention(x: Tensor, lengths: Tensor, weights: Any, *, settings: ConvBertAttention) -> Tensor:
    far = joined_products(x, weights)
    return linear(near_and_far(x, lengths, far, weights, settings=settings), weights["wo"], weights["bo"])
