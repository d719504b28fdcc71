"""Implement flash attention in PyTorch: exact attention in tiles, so that the full matrix of scores is never
in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..scan import scan, tiles
from ..torch_bodies import torch_body


@torch_body
def flash_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    tile: int,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute exact attention by a Scan over tiles of keys. Each step computes the scores of all queries for
    one tile. Returns the outputs and the log-sum-exp of each query's scores.
    """
    t, s = q.shape[1], k.shape[1]
    queries, keys, values = _queries(q, k.shape[2]), _keys(k), _keys(v)
    last = torch.arange(t, device=q.device) + (s - t)
    low = torch.full_like(queries[..., 0], -torch.inf)
    start = [low, torch.zeros_like(low), torch.zeros_like(low).unsqueeze(-1) * values[:, :, :, :1]]

    def step(*operands: Tensor) -> list[Tensor]:
        top, total, sums, at, real, queries, keys, values, last, *masks = operands
        seen = _seen(masks, at, real, last, causal)
        scores = _scores(queries, keys.index_select(3, at), seen, scale, softcap)
        higher = torch.maximum(top, scores.amax(-1))
        base = _finite(higher)
        weights, shrink = torch.exp(scores - base.unsqueeze(-1)), torch.exp(top - base)
        total = total * shrink + weights.sum(-1)
        sums = sums * shrink.unsqueeze(-1) + weights @ values.index_select(3, at)
        return [higher, total, sums]

    shared = [queries, keys, values, last, *([] if mask is None else [mask])]
    top, total, sums = scan(step, start, tiles(s, tile, q.device), shared)
    some = total.masked_fill(total == 0, 1)
    return _heads(sums / some.unsqueeze(-1)), (top + torch.log(some)).flatten(1, 2)


@torch_body
def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Combine two partial results of attention over different keys. Each result is weighted by its
    log-sum-exp relative to the larger one.
    """
    top = torch.maximum(lse, other_lse)
    base = _finite(top)
    a, b = torch.exp(lse - base), torch.exp(other_lse - base)
    total = (a + b).masked_fill(a + b == 0, 1)
    share = lambda part: (part / total).transpose(1, 2).unsqueeze(-1)  # noqa: E731
    return share(a) * out + share(b) * other, top + torch.log(total)


def _finite(x: Tensor) -> Tensor:
    return x.masked_fill(x == -torch.inf, 0)


def _queries(x: Tensor, groups: int) -> Tensor:
    """Reshape queries from [B, T, H, K] to [B, G, R, T, K], where G is `groups` and H = G·R."""
    return x.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)


def _keys(x: Tensor) -> Tensor:
    """Reshape keys or values from [B, S, G, K] to [B, G, 1, S, K]."""
    return x.transpose(1, 2).unsqueeze(2)


def _heads(x: Tensor) -> Tensor:
    """Reshape outputs from [B, G, R, T, V] to [B, T, G·R, V]."""
    return x.permute(0, 3, 1, 2, 4).flatten(2, 3)


def _seen(masks: list[Tensor], at: Tensor, real: Tensor, last: Tensor, causal: bool) -> Tensor:
    """Return which keys of a tile each query sees, [B or 1, 1, 1, T, tile]. `at` are the keys' indices, and
    `real` says which of these exist. If `causal`, `last` is the last key that each query sees.
    """
    seen = (at <= last.unsqueeze(-1)) & real if causal else real.expand(last.shape[0], -1)
    for mask in masks:
        seen = seen & mask.index_select(2, at)
    return seen.reshape(-1, 1, 1, *seen.shape[-2:])


def _scores(q: Tensor, k: Tensor, seen: Tensor | None, scale: float | None, softcap: float | None) -> Tensor:
    """Return the scores scale · q kᵀ with the soft cap applied. Scores of keys that a query doesn't see are
    −∞.
    """
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return scores if seen is None else scores.masked_fill(~seen, -torch.inf)
