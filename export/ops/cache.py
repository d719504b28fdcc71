"""Implement the cache in PyTorch: a layer keeps the keys and values of earlier tokens, so that they are
computed only once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..torch_bodies import torch_body


@torch_body
def append(past: Tensor, new: Tensor, start: Tensor) -> Tensor:
    """Write the new entries of each row b into a copy of the cache, from place start[b] on, and return the
    copy. In ONNX, this is a ScatterElements along the cache's time axis.
    """
    entries = new.transpose(1, 2)
    at = start[:, None] + torch.arange(new.shape[1], device=new.device)
    return past.scatter(2, at[:, None, :, None].expand_as(entries), entries)
