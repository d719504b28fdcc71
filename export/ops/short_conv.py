"""Implement in PyTorch how layers with short convolutions read their cache at the start of a text."""

from __future__ import annotations

import torch
from torch import Tensor

from ..torch_bodies import torch_body


@torch_body
def begun(kept: Tensor, past: Tensor) -> Tensor:
    """Return what a cache contains, but zeros for rows that have no token before this call. `past` is the
    number of earlier tokens of each row.
    """
    return torch.where((past > 0).view(-1, *(1,) * (kept.ndim - 1)), kept, 0)
