"""A convolution over neighbours: each token gets a linear map of itself and of tokens on either side."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

import torch
from torch.nn import functional

from .linear import linear
from .mask import padding_mask
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = ["NeighbourConvWeights", "neighbour_conv"]


class NeighbourConvWeights(TypedDict):
    """The leaves of a convolution: its 2A + 1 matrices one below the other, and its bias."""

    weight: Float[Array, "2*A*D+D D"] | Blocks
    bias: NotRequired[Float[Array, " D"]]


def neighbour_conv(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    weights: NeighbourConvWeights,
    *,
    neighbours: int,
) -> Float[Array, "B T D"]:
    """Tokens moved by each distance, side by side, and one product."""
    t = x.shape[1]
    real = padding_mask(torch.arange(t, device=x.device), lengths).unsqueeze(2)
    around = functional.pad(x.masked_fill(~real, 0), (0, 0, neighbours, neighbours))
    beside = torch.cat([around[:, j : j + t] for j in range(2 * neighbours + 1)], -1)
    return linear(beside, weights["weight"], weights.get("bias"))
