"""Per-layer embeddings: a small vector of each token for every layer, looked up instead of computed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...refimpl.config import Activation
from ...refimpl.ops.activation import activation
from ...refimpl.ops.embedding import embedding
from ...refimpl.ops.linear import linear
from ...refimpl.ops.norm import rms_norm
from ...refimpl.ops.per_layer import PerLayerEmbeddingWeights, PerLayerWeights
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index


@torch_body
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


@torch_body
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
