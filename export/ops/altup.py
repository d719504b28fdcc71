"""Alternating updates: several vectors for each token, of which each layer computes one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array


@torch_body
def same_magnitude(x: Float[Array, "B T D"], like: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Two ReduceMeans."""
    wanted, own = ((a * a).mean(-1, keepdim=True) for a in (like, x))
    return torch.sqrt(wanted) / torch.sqrt(own.clamp(min=1e-5)) * x
