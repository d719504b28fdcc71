"""Alternating updates: several vectors for each token, of which each layer computes one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...refimpl.config import AltUp
from ...refimpl.ops.altup import AltUpWeights, StreamWeights
from ...refimpl.ops.linear import linear
from ...refimpl.ops.norm import rms_norm
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array


@torch_body
def modalities(x: Float[Array, "B T D"], weights: AltUpWeights, *, eps: float) -> Float[Array, "B T X"]:
    """A norm, a product and Tanh."""
    share = 1 / x.shape[-1]
    return torch.tanh(linear(share * rms_norm(x, weights["norm"], eps=eps), weights["router"]))


@torch_body
def altup_predict(
    x: Float[Array, "B T X D"], weights: AltUpWeights, *, settings: AltUp
) -> Float[Array, "B T X D"]:
    """A product of two matrices for each token."""
    m = modalities(x[:, :, settings.active], weights, eps=settings.norm.eps)
    coefficients = linear(m, weights["predict"]).unflatten(-1, (settings.streams, settings.streams))
    return torch.matmul(coefficients, x) + x


@torch_body
def altup_correct(
    predictions: Float[Array, "B T X D"],
    y: Float[Array, "B T D"],
    weights: AltUpWeights,
    *,
    settings: AltUp,
) -> Float[Array, "B T X D"]:
    """An outer product for each token."""
    innovation = y - predictions[:, :, settings.active]
    coefficients = linear(modalities(y, weights, eps=settings.norm.eps), weights["correct"]) + 1
    return coefficients.unsqueeze(-1) * innovation.unsqueeze(2) + predictions


@torch_body
def same_magnitude(x: Float[Array, "B T D"], like: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Two ReduceMeans."""
    wanted, own = ((a * a).mean(-1, keepdim=True) for a in (like, x))
    return torch.sqrt(wanted) / torch.sqrt(own.clamp(min=1e-5)) * x


@torch_body
def enter_streams(x: Float[Array, "B T D"], streams: list[StreamWeights]) -> Float[Array, "B T X D"]:
    """A product for each stream but the first, and Concat."""
    return torch.stack([x] + [same_magnitude(linear(x, s["enter"]), x) for s in streams], dim=2)


@torch_body
def leave_streams(x: Float[Array, "B T X D"], streams: list[StreamWeights]) -> Float[Array, "B T D"]:
    """A product for each stream but the first, and their sum."""
    first = total = x[:, :, 0]
    for i, s in enumerate(streams):
        total = total + same_magnitude(linear(x[:, :, i + 1], s["leave"]), first)
    return total / (len(streams) + 1)
