"""Normalizations over the last axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array


@torch_body
def rms_norm(
    x: Float[Array, "B T D"],
    weight: Float[Array, " D"] | None = None,
    *,
    eps: float,
) -> Float[Array, "B T D"]:
    """RMSNormalization from opset 23 on, primitives before."""
    return functional.rms_norm(x, x.shape[-1:], weight, eps)


@torch_body
def layer_norm(
    x: Float[Array, "B T D"],
    weight: Float[Array, " D"] | None = None,
    bias: Float[Array, " D"] | None = None,
    *,
    eps: float,
) -> Float[Array, "B T D"]:
    """LayerNormalization."""
    return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)
