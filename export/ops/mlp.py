"""The position-wise feed-forward network, plain and gated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dispatch import seam
from .activation import activation
from .linear import linear
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.config import Activation

__all__ = ["gated_mlp", "plain_mlp"]


@seam
def plain_mlp(
    x: Float[Array, "B T D"],
    up: Float[Array, "D F"] | Blocks,
    down: Float[Array, "F D"] | Blocks,
    bup: Float[Array, " F"] | None = None,
    bdown: Float[Array, " D"] | None = None,
    *,
    kind: Activation,
) -> Float[Array, "B T D"]:
    """Two linear maps."""
    return linear(activation(linear(x, up, bup), kind=kind), down, bdown)


@seam
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
    """Three linear maps."""
    opened = activation(linear(x, gate, bgate), kind=kind)
    return linear(opened * linear(x, up, bup), down, bdown)
