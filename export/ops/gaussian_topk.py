"""Gaussian top-k: finds the largest numbers of a vector by its mean and deviation instead of by sorting."""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor

from ..torch_bodies import torch_body


@torch_body
def gaussian_topk(x: Tensor, *, share: float) -> Tensor:
    """Exported to ONNX as two ReduceMeans and a Relu."""
    apart = x - x.mean(-1, keepdim=True)
    deviation = torch.sqrt((apart * apart).mean(-1, keepdim=True))
    return torch.relu(apart - NormalDist().inv_cdf(share) * deviation)
