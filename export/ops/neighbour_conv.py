"""A convolution over neighbours: each token gets a linear map of itself and of tokens on either side."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...refimpl.ops.linear import linear
from ...refimpl.ops.mask import padding_mask
from ...refimpl.ops.neighbour_conv import NeighbourConvWeights
from ..torch_bodies import torch_body


@torch_body
def neighbour_conv(x: Tensor, lengths: Tensor, weights: NeighbourConvWeights, *, neighbours: int) -> Tensor:
    """Tokens moved by each distance, side by side, and one product."""
    t = x.shape[1]
    real = padding_mask(torch.arange(t, device=x.device), lengths).unsqueeze(2)
    around = functional.pad(x.masked_fill(~real, 0), (0, 0, neighbours, neighbours))
    beside = torch.cat([around[:, j : j + t] for j in range(2 * neighbours + 1)], -1)
    return linear(beside, weights["weight"], weights.get("bias"))
