"""The position-wise feed-forward network, plain and gated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .activation import activation
from .linear import linear
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from ..config import Activation

__all__ = ["gated_mlp", "plain_mlp"]


def plain_mlp(
    x: Float[Array, "B T D"],
    up: Float[Array, "D F"] | Blocks,
    down: Float[Array, "F D"] | Blocks,
    bup: Float[Array, " F"] | None = None,
    bdown: Float[Array, " D"] | None = None,
    *,
    kind: Activation,
) -> Float[Array, "B T D"]:
    """act(x · up) · down (Vaswani et al. 2017, eq. 2, there with ReLU)."""
    return linear(activation(linear(x, up, bup), kind=kind), down, bdown)


def gated_mlp(
    x: Float[Array, "B T D"],
    gate: Float[Array, "D F"] | Blocks,
    up: Float[Array, "D F"] | Blocks,
    down: Float[Array, "F D"] | Blocks,
    bgate: Float[Array, " F"] | None = None,
    bup: Float[Array, " F"] | None = None,
    bdown: Float[Array, " D"] | None = None,
    *,
    kind: Activation,
) -> Float[Array, "B T D"]:
    """(act(x · gate) ⊙ (x · up)) · down (Shazeer 2020, eq. 6; SwiGLU when act is SiLU)."""
    hidden = activation(linear(x, gate, bgate), kind=kind) * linear(x, up, bup)
    return linear(hidden, down, bdown)
