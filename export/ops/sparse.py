"""Block-sparse attention: queries and keys in blocks, and a list of the pairs that are computed."""

from __future__ import annotations

import torch
from torch import Tensor

from ...refimpl.ops.sparse import BlockPairs
from ..torch_bodies import torch_body


@torch_body
def sparse_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pairs: BlockPairs,
    keys: Tensor | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """All pairs at once; maxima and sums over the pairs of a row by scattering."""
    rows, columns, mask = pairs
    size, g = q.shape[4], k.shape[3]
    grouped = q.index_select(1, rows).unflatten(3, (g, -1)).permute(0, 1, 3, 4, 2, 5)
    near_k, near_v = (a.index_select(1, columns).transpose(2, 3).unsqueeze(3) for a in (k, v))
    scores = grouped @ near_k.transpose(-1, -2) * (size**-0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    if keys is not None:
        scores = scores.masked_fill(~keys.index_select(1, columns)[:, :, None, None, None], -torch.inf)

    # [B, M, G, R, A] of the pairs goes to [B, Y, G, R, A] of the blocks of queries.
    best = scores.amax(-1)
    blocks = torch.zeros_like(q[..., 0]).unflatten(3, (g, -1)).permute(0, 1, 3, 4, 2)
    place = rows[:, None, None, None].expand_as(best)
    top = (blocks - torch.inf).scatter_reduce(1, place, best, "amax")
    top = top.masked_fill(top == -torch.inf, 0)
    weights = torch.exp(scores - top.index_select(1, rows).unsqueeze(-1))
    total = blocks.scatter_add(1, place, weights.sum(-1)).unsqueeze(-1)
    part = weights @ near_v
    empty = blocks.unsqueeze(-1).expand(*blocks.shape, v.shape[4])
    sums = empty.scatter_add(1, place.unsqueeze(-1).expand_as(part), part)
    out = sums / total.masked_fill(total == 0, 1)
    return out.permute(0, 1, 4, 2, 3, 5).flatten(3, 4)


@torch_body
def block_pairs(layout: Tensor) -> tuple[Tensor, Tensor]:
    """The indices at which the layout is true."""
    places = torch.nonzero(layout)
    return places[:, 0], places[:, 1]


@torch_body
def block_mask(queries: Tensor, keys: Tensor, layout: Tensor) -> Tensor:
    """Rows of the layout, then columns."""
    return layout[queries].index_select(2, keys)


@torch_body
def bigbird_layout(rows: Tensor, columns: Tensor, chosen: Tensor, *, reach: int, first: int) -> Tensor:
    """Comparisons of block numbers, broadcast."""
    window = abs(rows[:, None] - columns) <= reach
    spread = (rows[:, None] < first) | (columns < first)
    block = torch.arange(columns.shape[0], device=chosen.device)
    return window | spread | (chosen[:, :, None] == block).any(1)


@torch_body
def longformer_mask(
    queries: Tensor, keys: Tensor, query_global: Tensor, key_global: Tensor, *, reach: int
) -> Tensor:
    """Comparisons of positions, broadcast."""
    near = abs(queries.unsqueeze(-1) - keys.unsqueeze(-2)) <= reach
    return near | query_global.unsqueeze(-1) | key_global.unsqueeze(-2)


@torch_body
def longformer_layout(is_global: Tensor, *, reach: int) -> Tensor:
    """Comparisons of block numbers, broadcast."""
    y, a = is_global.shape
    block = torch.arange(y, device=is_global.device)
    apart = abs(block[:, None] - block)
    some = is_global.any(1)
    return ((apart - 1) * a + 1 <= reach) | (apart == 0) | some[:, None] | some
