"""Compute ConvBERT's attention with basic operators, over joined matrices for queries, keys and values. No
ONNX operator computes a convolution that has a different kernel for each token.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...refimpl.ops.convbert import ConvBertAttention, near_and_far
from .group_query_attention import joined_products
from .ort_ops import linear


def convbert_attention(x: Tensor, lengths: Tensor, weights: Any, *, settings: ConvBertAttention) -> Tensor:
    q, k, v = joined_products(x, weights)
    both = near_and_far(x, lengths, (q, k, v), weights, settings=settings)
    return linear(both, weights["wo"], weights["bo"])
