"""The position-wise feed-forward network, plain and gated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...refimpl.config import XIELU, Activation, ClampedSwiGLU
from ...refimpl.ops.activation import activation, xielu
from ...refimpl.ops.gaussian_topk import gaussian_topk
from ...refimpl.ops.linear import linear
from ...refimpl.ops.mlp import GatedMlpWeights, PlainMlpWeights
from ...refimpl.ops.norm import rms_norm
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array


@torch_body
def hidden_units(up: Array, weights: PlainMlpWeights, kind: Activation | XIELU) -> Array:
    """The hidden values of a plain mlp, from the result of its first map."""
    if isinstance(kind, XIELU):
        assert "alpha_p" in weights
        assert "alpha_n" in weights
        return xielu(up, weights["alpha_p"], weights["alpha_n"], beta=kind.beta)
    return activation(up, kind=kind)


@torch_body
def plain_mlp(
    x: Float[Array, "B T D"], weights: PlainMlpWeights, *, kind: Activation | XIELU
) -> Float[Array, "B T D"]:
    """Two linear maps."""
    hidden = hidden_units(linear(x, weights["up"], weights.get("bup")), weights, kind)
    return linear(hidden, weights["down"], weights.get("bdown"))


@torch_body
def clamped_swiglu(
    gate: Float[Array, "B T F"], up: Float[Array, "B T F"], *, alpha: float, limit: float
) -> Float[Array, "B T F"]:
    """Min, Clip, and Sigmoid with Mul."""
    g = gate.clamp(max=limit)
    return g * torch.sigmoid(alpha * g) * (up.clamp(-limit, limit) + 1)


@torch_body
def glu(gate: Array, up: Array, kind: Activation | ClampedSwiGLU) -> Array:
    """The hidden values of a gated mlp, from the results of its first two maps."""
    if isinstance(kind, ClampedSwiGLU):
        return clamped_swiglu(gate, up, alpha=kind.alpha, limit=kind.limit)
    return activation(gate, kind=kind) * up


@torch_body
def gated_mlp(
    x: Float[Array, "B T D"],
    weights: GatedMlpWeights,
    *,
    kind: Activation | ClampedSwiGLU,
    gate_scale: float | None = None,
    sparsity: float | None = None,
    norm_eps: float = 1e-6,
) -> Float[Array, "B T D"]:
    """Three linear maps."""
    gate = linear(x, weights["gate"], weights.get("bgate"))
    gate = gate if gate_scale is None else gate_scale * gate
    gate = gate if sparsity is None else gaussian_topk(gate, share=sparsity)
    hidden = glu(gate, linear(x, weights["up"], weights.get("bup")), kind)
    if "down_norm" in weights:
        hidden = rms_norm(hidden, weights["down_norm"], eps=norm_eps)
    return linear(hidden, weights["down"], weights.get("bdown"))
