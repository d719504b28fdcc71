"""The position-wise feed-forward network (mlp), with and without a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

from ..config import XIELU, Activation, Gate, SwiGLUOAI, SwiGLUStep
from .activation import activation, sigmoid, silu, xielu
from .dispatch import observe, op
from .gaussian_topk import gaussian_topk
from .linear import linear
from .norm import rms_norm
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float


class PlainMlpWeights(TypedDict):
    """The parameters of an mlp without a gate."""

    up: Float[Array, "D F"] | Blocks
    down: Float[Array, "F D"] | Blocks
    bup: NotRequired[Float[Array, " F"]]
    bdown: NotRequired[Float[Array, " D"]]
    alpha_p: NotRequired[Float[Array, " 1"]]
    alpha_n: NotRequired[Float[Array, " 1"]]


class GatedMlpWeights(TypedDict):
    """The parameters of a gated mlp. An expert is a gated mlp too."""

    gate: Float[Array, "D F"] | Blocks
    up: Float[Array, "D F"] | Blocks
    down: Float[Array, "F D"] | Blocks
    bgate: NotRequired[Float[Array, " F"]]
    bup: NotRequired[Float[Array, " F"]]
    bdown: NotRequired[Float[Array, " D"]]
    down_norm: NotRequired[Float[Array, " F"]]


@op
def hidden_units(up: Array, weights: PlainMlpWeights, kind: Activation | XIELU) -> Array:
    """Return the hidden units of a plain mlp, computed from the result of its first map."""
    if isinstance(kind, XIELU):
        assert "alpha_p" in weights
        assert "alpha_n" in weights
        return xielu(up, weights["alpha_p"], weights["alpha_n"], beta=kind.beta)
    return activation(up, kind=kind)


@op
def plain_mlp(
    x: Float[Array, "B T D"], weights: PlainMlpWeights, *, kind: Activation | XIELU
) -> Float[Array, "B T D"]:
    """Compute an mlp without a gate: act(x · up) · down (Vaswani et al. 2017, eq. 2, with ReLU as act)."""
    hidden = hidden_units(linear(x, weights["up"], weights.get("bup")), weights, kind)
    return linear(observe("mlp, hidden", hidden), weights["down"], weights.get("bdown"))


@op
def swiglu_oai(
    gate: Float[Array, "B T F"], up: Float[Array, "B T F"], *, alpha: float, limit: float
) -> Float[Array, "B T F"]:
    """Compute gpt-oss's form of SwiGLU: g · σ(alpha · g) · (u + 1), with g = min(gate, limit) and u = up
    clamped to ± limit (OpenAI 2025, §2.1).

    This is SwiGLU with two changes. First, clamps bound the values of a few large channels, as number
    formats with few bits require. For negative g, the product is bounded without a clamp. Second, 1 is
    added to u. So if a unit's up is 0, the unit gives the value of its gate, while in SwiGLU it gives 0.
    Conventions: σ(1.702 g) · g is quick GELU. In checkpoints the experts' gate and up alternate; here they
    are separate.
    """
    g, u = gate.clip(max=limit), up.clip(-limit, limit)
    return g * sigmoid(alpha * g) * (u + 1)


@op
def glu(gate: Array, up: Array, kind: Gate) -> Array:
    """Return the hidden units of a gated mlp, computed from the results `gate` and `up` of its first two
    maps.
    """
    if isinstance(kind, SwiGLUStep):
        return silu(gate).clip(max=kind.limit) * up.clip(-kind.limit, kind.limit)
    if isinstance(kind, SwiGLUOAI):
        return swiglu_oai(gate, up, alpha=kind.alpha, limit=kind.limit)
    return activation(gate, kind=kind) * up


@op
def gated_mlp(
    x: Float[Array, "B T D"],
    weights: GatedMlpWeights,
    *,
    kind: Gate,
    gate_scale: float | None = None,
    sparsity: float | None = None,
    norm_eps: float = 1e-6,
) -> Float[Array, "B T D"]:
    """Compute a gated mlp: (act(gate_scale · x · gate) ⊙ (x · up)) · down (Shazeer 2020, eq. 6; SwiGLU if
    act is SiLU).

    `swiglu_oai` may replace act(gate) ⊙ up. A `gate_scale` of None means 1. With `sparsity`, act is
    applied to `gaussian_topk` of the gate. If act(0) is 0, about this share of the hidden units is then 0.
    A `down_norm` normalizes the hidden units (BitNet b1.58, Ma et al. 2025, arXiv 2504.12285, §2).
    """
    gate = linear(x, weights["gate"], weights.get("bgate"))
    gate = gate if gate_scale is None else gate * gate_scale
    gate = gate if sparsity is None else gaussian_topk(gate, share=sparsity)
    hidden = glu(gate, linear(x, weights["up"], weights.get("bup")), kind)
    if "down_norm" in weights:
        hidden = rms_norm(hidden, weights["down_norm"], eps=norm_eps)
    return linear(observe("mlp, hidden", hidden), weights["down"], weights.get("bdown"))
