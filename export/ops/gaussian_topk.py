"""Gaussian top-k: the largest numbers of a vector, found by its mean and deviation instead of by sorting."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import torch

from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array


@torch_body
def gaussian_topk(x: Float[Array, "B T F"], *, share: float) -> Float[Array, "B T F"]:
    """Two ReduceMeans, and Relu."""
    apart = x - x.mean(-1, keepdim=True)
    deviation = torch.sqrt((apart * apart).mean(-1, keepdim=True))
    return torch.relu(apart - NormalDist().inv_cdf(share) * deviation)
