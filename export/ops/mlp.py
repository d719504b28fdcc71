"""The position-wise feed-forward network, plain and gated."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

from ..dispatch import replaceable
from .activation import activation
from .linear import linear
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.config import Activation

__all__ = ["GatedMlpWeights", "PlainMlpWeights", "gated_mlp", "plain_mlp"]


class PlainMlpWeights(TypedDict):
    """The leaves of a plain mlp."""

    up: Float[Array, "D F"] | Blocks
    down: Float[Array, "F D"] | Blocks
    bup: NotRequired[Float[Array, " F"]]
    bdown: NotRequired[Float[Array, " D"]]


class GatedMlpWeights(TypedDict):
    """The leaves of a gated mlp, such as an expert."""

    gate: Float[Array, "D F"] | Blocks
    up: Float[Array, "D F"] | Blocks
    down: Float[Array, "F D"] | Blocks
    bgate: NotRequired[Float[Array, " F"]]
    bup: NotRequired[Float[Array, " F"]]
    bdown: NotRequired[Float[Array, " D"]]


@replaceable
def plain_mlp(
    x: Float[Array, "B T D"], weights: PlainMlpWeights, *, kind: Activation
) -> Float[Array, "B T D"]:
    """Two linear maps."""
    hidden = activation(linear(x, weights["up"], weights.get("bup")), kind=kind)
    return linear(hidden, weights["down"], weights.get("bdown"))


@replaceable
def gated_mlp(
    x: Float[Array, "B T D"], weights: GatedMlpWeights, *, kind: Activation
) -> Float[Array, "B T D"]:
    """Three linear maps."""
    gate = activation(linear(x, weights["gate"], weights.get("bgate")), kind=kind)
    hidden = gate * linear(x, weights["up"], weights.get("bup"))
    return linear(hidden, weights["down"], weights.get("bdown"))
