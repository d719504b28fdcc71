"""Implement Gaussian top-k in PyTorch: the largest numbers of a vector are found by its mean and deviation
instead of by sorting.
"""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor

from ..torch_bodies import torch_body


@torch_body
def gaussian_topk(x: Tensor, *, share: float) -> Tensor:
    """Compute max(0, x − μ − q · σ) for each vector, where μ and σ are its mean and deviation and q =
    Φ⁻¹(share). In ONNX, these are two ReduceMeans and a Relu.
    """
    apart = x - x.mean(-1, keepdim=True)
    deviation = torch.sqrt((apart * apart).mean(-1, keepdim=True))
    return torch.relu(apart - NormalDist().inv_cdf(share) * deviation)
