"""Implement the lightning indexer in PyTorch: a cheap score of all earlier tokens selects the few tokens that
attention sees.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..torch_bodies import torch_body


@torch_body
def index_scores(q: Tensor, k: Tensor, weights: Tensor) -> Tensor:
    """Return the indexer's score of each key for each query. One product with all keys has a row for each
    pair of head and query, and a second product sums over the heads.
    """
    products = (q.flatten(1, 2) @ k.mT).unflatten(1, q.shape[1:3]).relu()
    return (weights.unsqueeze(2) @ products).squeeze(2)


@torch_body
def best_keys(scores: Tensor, mask: Tensor, *, topk: int) -> Tensor:
    """Return which keys each query sees, at most `topk`: all keys whose score is above the topk-th highest
    score, and then the first keys with exactly this score.

    Among equal scores, torch.topk takes any, so only the values that torch.topk returns are used. torch.topk
    needs at least `topk` keys, so `topk` hidden keys are appended.
    """
    hidden = scores.masked_fill(~mask, -torch.inf)
    lowest = functional.pad(hidden, (0, topk), value=-torch.inf).topk(topk, dim=-1).values[..., -1:]
    above, equal = hidden > lowest, hidden == lowest
    place = above.sum(-1, keepdim=True) + equal.cumsum(-1)
    return (above | (equal & (place <= topk))) & mask
