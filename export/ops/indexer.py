"""The lightning indexer: a cheap score of all earlier tokens says which few of them attention sees."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..torch_bodies import torch_body


@torch_body
def index_scores(q: Tensor, k: Tensor, weights: Tensor) -> Tensor:
    """Heads and queries are the rows of one product; the sum over heads is another."""
    products = (q.flatten(1, 2) @ k.mT).unflatten(1, q.shape[1:3]).relu()
    return (weights.unsqueeze(2) @ products).squeeze(2)


@torch_body
def best_keys(scores: Tensor, mask: Tensor, *, topk: int) -> Tensor:
    """All above the lowest score that is seen, and of those that equal it the first for which there is room.

    topk takes any of equal scores, so only its values are used. It needs as many keys as it takes: `topk`
    hidden ones stand behind the others.
    """
    hidden = scores.masked_fill(~mask, -torch.inf)
    lowest = functional.pad(hidden, (0, topk), value=-torch.inf).topk(topk, dim=-1).values[..., -1:]
    above, equal = hidden > lowest, hidden == lowest
    place = above.sum(-1, keepdim=True) + equal.cumsum(-1)
    return (above | (equal & (place <= topk))) & mask
