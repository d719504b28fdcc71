"""Multi-token prediction: what a module's layer reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...refimpl.ops.linear import linear
from ...refimpl.ops.mtp import MTPInputWeights
from ...refimpl.ops.norm import rms_norm
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array


@torch_body
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
