"""Implement state-space duality in PyTorch: the same function as a recurrence, and as attention with a
decaying mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...refimpl.ops.delta import delta_attend
from ..torch_bodies import torch_body


@torch_body
def ssd_recurrent(x: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the state-space recurrence by a Scan over the tokens. The recurrence equals linear attention
    with decay, with b as keys and c as queries, repeated for all heads of a group.
    """
    b, c = (a.repeat_interleave(x.shape[2] // a.shape[2], dim=2) for a in (b, c))
    return delta_attend(c, b, x, state, decay.unsqueeze(-1).expand(b.shape), scale=1.0)


@torch_body
def ssd_quadratic(x: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the state-space recurrence by matrix products, without a loop. The scores C Bᵀ are computed
    once for all heads of a group.
    """
    groups, share = b.shape[2], x.shape[2] // b.shape[2]
    b, c, decay = b.transpose(1, 2), c.transpose(1, 2), decay.transpose(1, 2)
    x, scores = x.transpose(1, 2), (c @ b.mT).repeat_interleave(share, dim=1)
    at = torch.arange(x.shape[2], device=x.device)
    sums = torch.cumsum(decay.unsqueeze(-1) * (at < at[:, None]), 2)
    mask = torch.exp(sums) * (at <= at[:, None])
    since = torch.exp(torch.cumsum(decay, 2)).unsqueeze(-1)
    read = (c.unsqueeze(2) @ state.unflatten(1, (groups, share))).flatten(1, 2)
    y = (mask * scores) @ x + since * read
    # The last row, which index_select finds for any T.
    last = at[-1:]
    left = mask.index_select(2, last).transpose(2, 3) * x
    written = (b.mT.unsqueeze(2) @ left.unflatten(1, (groups, share))).flatten(1, 2)
    return y.transpose(1, 2), since.index_select(2, last) * state + written
