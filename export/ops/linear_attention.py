"""Implement linear attention in PyTorch: φ(q)·φ(k) replaces exp(q·k), so a cache stores sums over the keys
instead of the keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..torch_bodies import torch_body


@torch_body
def elu_features(x: Tensor) -> Tensor:
    """Compute φ(x) = elu(x) + 1 for each element."""
    return torch.nn.functional.elu(x) + 1


@torch_body
def linear_recurrent(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, norm: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute causal linear attention over all tokens of the call as one chunk, by masked products between
    these tokens and one product with the sums over earlier tokens.

    So the graph needs no loop. But memory grows with the square of the number of tokens, so the engine must
    keep chunks short.
    """
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    at = torch.arange(q.shape[1], device=q.device)
    grouped = q.unflatten(2, (k.shape[1], -1)).permute(0, 2, 3, 1, 4)
    weights = grouped @ k.mT.unsqueeze(2) * (at <= at[:, None])
    sums = weights @ v.unsqueeze(2) + grouped @ state.unsqueeze(2)
    total = weights.sum(-1) + (grouped @ norm[:, :, None, :, None]).squeeze(-1)
    y = (sums / total.masked_fill(total == 0, 1).unsqueeze(-1)).permute(0, 3, 1, 2, 4).flatten(2, 3)
    return y, state + k.mT @ v, norm + k.sum(2)
