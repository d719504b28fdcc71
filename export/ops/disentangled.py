"""Disentangled attention: scores have separate terms for what two tokens are and how far apart they stand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ...refimpl.config import DisentangledAttention
from ...refimpl.ops.attention import attend, heads
from ...refimpl.ops.disentangled import DisentangledWeights, DistanceTable
from ...refimpl.ops.linear import linear
from ...refimpl.ops.mask import padding_mask
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor as Array

    from ...refimpl.axes import Index


@torch_body
def distance_rows(
    queries: Int[Array, " T"],
    keys: Int[Array, " S"],
    *,
    span: int,
    log_until: int | None = None,
) -> Index[Array, "T S", "< W"]:
    """A difference and a clamp; where distances share rows, a lookup in a table of those behind."""
    behind = queries.unsqueeze(1) - keys
    if log_until is None:
        return (behind + span).clamp(0, 2 * span - 1)
    middle = span // 2

    def shared(distance: int) -> int:
        if distance <= middle:
            return distance
        share = math.log(distance / middle) / math.log((log_until - 1) / middle)
        return min(middle + math.ceil(share * (middle - 1)), span)

    table = torch.tensor([shared(d) for d in range(log_until + 1)])
    steps = table[behind.abs().clamp(max=log_until)]
    return torch.where(behind < 0, -steps + span, (span + steps).clamp(max=2 * span - 1))


@torch_body
def distance_scores(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S H K"],
    rows: Index[Array, "T S", "< W"],
    q_pos: Float[Array, "W H K"] | None = None,
    k_pos: Float[Array, "W H K"] | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, "B H T S"]:
    """A product with all distances for each term, of which each pair of tokens gathers its own."""
    factor = q.shape[3] ** -0.5 if scale is None else scale
    shape = q.shape[0], q.shape[2], q.shape[1], k.shape[1]
    scores = None
    if k_pos is not None:
        by_row = (q * factor).transpose(1, 2) @ k_pos.permute(1, 2, 0)
        scores = by_row.gather(3, rows.expand(shape))
    if q_pos is not None:
        by_row = (q_pos * factor).transpose(0, 1) @ k.permute(0, 2, 3, 1)
        term = by_row.gather(2, rows.expand(shape))
        scores = term if scores is None else scores + term
    return q.new_zeros(shape) if scores is None else scores


@torch_body
def disentangled_attention(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    weights: DisentangledWeights,
    table: DistanceTable,
    *,
    settings: DisentangledAttention,
) -> Float[Array, "B T D"]:
    """Projections, distances, mask and attention."""
    a = settings
    q = heads(x, weights["wq"], weights.get("bq"), size=a.head_size)
    k = heads(x, weights["wk"], weights.get("bk"), size=a.head_size)
    v = heads(x, weights["wv"], weights.get("bv"), size=a.head_size)
    vectors, q_pos, k_pos = table.vectors.unsqueeze(0), None, None
    if a.shared:
        q_pos = heads(vectors, weights["wq"], weights.get("bq"), size=a.head_size)[0]
        k_pos = heads(vectors, weights["wk"], weights.get("bk"), size=a.head_size)[0]
    if not a.shared and "wq_pos" in weights:
        q_pos = heads(vectors, weights["wq_pos"], weights.get("bq_pos"), size=a.head_size)[0]
    if not a.shared and "wk_pos" in weights:
        k_pos = heads(vectors, weights["wk_pos"], weights.get("bk_pos"), size=a.head_size)[0]
    bias = distance_scores(
        q,
        k,
        table.rows,
        q_pos if a.position_to_content else None,
        k_pos if a.content_to_position else None,
        scale=a.factor,
    )
    t = x.shape[1]
    mask = padding_mask(torch.arange(t, device=x.device), lengths).unsqueeze(1).expand(-1, t, -1)
    y = attend(q, k, v, mask, bias, scale=a.factor)
    return linear(y.flatten(-2), weights["wo"], weights.get("bo"))
