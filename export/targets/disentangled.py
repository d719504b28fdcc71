"""Compute disentangled attention with ONNX Runtime's MultiHeadAttention. The score terms with positions
become a bias of the scores.
"""

from __future__ import annotations

from typing import NotRequired

from torch import Tensor

from ...refimpl.ops.cross_attention import EncoderKV
from ...refimpl.ops.disentangled import DisentangledAttention, DistanceTable, distance_scores
from .group_query_attention import AttentionLeaves, joined_products
from .multi_head_attention import multi_head
from .ort_ops import Leaf, linear


class DisentangledLeaves(AttentionLeaves):
    """The parameters of a disentangled attention sublayer in the form that this target stores."""

    wk_pos: NotRequired[Leaf]
    wq_pos: NotRequired[Leaf]
    bk_pos: NotRequired[Tensor]
    bq_pos: NotRequired[Tensor]


def disentangled_attention(
    x: Tensor,
    lengths: Tensor,
    weights: DisentangledLeaves,
    table: DistanceTable,
    *,
    settings: DisentangledAttention,
) -> Tensor:
    a = settings
    q, k, v = joined_products(x, weights)
    vectors, q_pos, k_pos = table.vectors.unsqueeze(0), None, None
    if a.shared:
        q_pos, k_pos, _ = joined_products(vectors, weights)
    if not a.shared and "wq_pos" in weights:
        q_pos = linear(vectors, weights["wq_pos"], weights.get("bq_pos"))
    if not a.shared and "wk_pos" in weights:
        k_pos = linear(vectors, weights["wk_pos"], weights.get("bk_pos"))
    q_heads, k_heads = (y.unflatten(-1, (-1, a.head_size)) for y in (q, k))
    bias = distance_scores(
        q_heads,
        k_heads,
        table.rows,
        _heads(q_pos, a) if a.position_to_content else None,
        _heads(k_pos, a) if a.content_to_position else None,
        scale=a.factor,
    )
    y = multi_head(q, EncoderKV(k, v, lengths), heads=a.heads, scale=a.factor, bias=bias)
    return linear(y, weights["wo"], weights.get("bo"))


def _heads(x: Tensor | None, settings: DisentangledAttention) -> Tensor | None:
    """Split the rows of a table [1, W, H·K] into heads, [W, H, K]. Return None if there is no table."""
    return None if x is None else x[0].unflatten(-1, (-1, settings.head_size))
