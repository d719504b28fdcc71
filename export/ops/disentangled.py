"""Implement disentangled attention in PyTorch: scores have separate terms for the contents of two tokens and
for the distance between them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..torch_bodies import torch_body


@torch_body
def distance_rows(queries: Tensor, keys: Tensor, *, span: int, log_until: int | None = None) -> Tensor:
    """Return the table row of the distance between each query and each key: the distance plus `span`, clamped
    to the table. If `log_until` is given, large distances share rows, which are looked up in a constant
    table.
    """
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
    q: Tensor,
    k: Tensor,
    rows: Tensor,
    q_pos: Tensor | None = None,
    k_pos: Tensor | None = None,
    *,
    scale: float | None = None,
) -> Tensor:
    """Return the sum of the score terms that depend on the distance between two tokens. Each term is a matrix
    product with all rows of distances, from which each pair of tokens gathers its own value.
    """
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
