"""Per-layer embeddings: a small vector of each token for every layer, looked up instead of computed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NotRequired, TypedDict

from ...refimpl.config import Activation
from .activation import activation
from .embedding import embedding
from .linear import linear
from .norm import rms_norm
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = ["PerLayerEmbeddingWeights", "PerLayerWeights", "per_layer_inputs", "per_layer_update"]


class PerLayerEmbeddingWeights(TypedDict):
    """The leaves that make the inputs of all C layers: their vectors stand side by side in a row."""

    table: Float[Array, "N C*F"] | Blocks
    project: Float[Array, "D C*F"] | Blocks
    norm: Float[Array, " F"]


class PerLayerWeights(TypedDict):
    """The leaves by which a layer reads its input: a gate's map to its width, and the map back.

    There may be a factor of what the gate reads.
    """

    gate: Float[Array, "D F"] | Blocks
    project: Float[Array, "F D"] | Blocks
    scale: NotRequired[Float[Array, " D"]]


def per_layer_inputs(
    tokens: Index[Array, "B T", "< N"],
    x: Float[Array, "B T D"],
    weights: PerLayerEmbeddingWeights,
    *,
    eps: float,
) -> Float[Array, "B T C F"]:
    """A gather and a product, their last axes split."""
    width = weights["norm"].shape[0]
    rows = embedding(tokens, weights["table"])
    seen = math.sqrt(1 / x.shape[-1]) * linear(x, weights["project"])
    seen = rms_norm(seen.unflatten(-1, (-1, width)), weights["norm"], eps=eps)
    return math.sqrt(0.5) * (math.sqrt(width) * rows.unflatten(-1, (-1, width)) + seen)


def per_layer_update(
    x: Float[Array, "B T D"],
    inputs: Float[Array, "B T F"],
    weights: PerLayerWeights,
    *,
    kind: Activation,
) -> Float[Array, "B T D"]:
    """Two products around an activation and the inputs."""
    if "scale" in weights:
        x = weights["scale"] * x
    gate = activation(linear(x, weights["gate"]), kind=kind)
    return linear(inputs * gate, weights["project"])
