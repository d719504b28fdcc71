"""Multi-token prediction: what a module's layer reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import torch

from .linear import linear
from .norm import rms_norm
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

__all__ = ["MTPInputWeights", "mtp_input"]


class MTPInputWeights(TypedDict):
    """The leaves that join two vectors: a norm of each, and the map from both."""

    token_norm: Float[Array, " D"]
    hidden_norm: Float[Array, " D"]
    project: Float[Array, "2*D D"] | Blocks


def mtp_input(
    x: Float[Array, "B T D"],
    hidden: Float[Array, "B T D"],
    weights: MTPInputWeights,
    *,
    eps: float,
) -> Float[Array, "B T D"]:
    """Two norms, side by side, and a product."""
    token = rms_norm(x, weights["token_norm"], eps=eps)
    return linear(
        torch.cat([token, rms_norm(hidden, weights["hidden_norm"], eps=eps)], -1), weights["project"]
    )
