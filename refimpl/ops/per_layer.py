"""Per-layer embeddings: a small vector of each token for every layer, looked up instead of computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

from ..config import Activation
from .activation import activation
from .arrays import split_last
from .dispatch import op
from .embedding import embedding
from .linear import linear
from .norm import rms_norm
from .quant import Blocks

if TYPE_CHECKING:
    from typing import Any as Array

    from jaxtyping import Float

    from ..axes import Index

__all__ = ["PerLayerEmbeddingWeights", "PerLayerWeights", "per_layer_inputs", "per_layer_update"]


class PerLayerEmbeddingWeights(TypedDict):
    """The leaves that make the inputs of all C layers: their vectors stand side by side in a row.

    There may be no table.
    """

    table: NotRequired[Float[Array, "N C*F"] | Blocks]
    project: Float[Array, "D C*F"] | Blocks
    norm: Float[Array, " F"]


class PerLayerWeights(TypedDict):
    """The leaves by which a layer reads its input: a gate's map to its width, and the map back.

    There may be a factor of what the gate reads.
    """

    gate: Float[Array, "D F"] | Blocks
    project: Float[Array, "F D"] | Blocks
    scale: NotRequired[Float[Array, " D"]]


@op
def per_layer_inputs(
    tokens: Index[Array, "B T", "< N"],
    x: Float[Array, "B T D"],
    weights: PerLayerEmbeddingWeights,
    *,
    eps: float,
) -> Float[Array, "B T C F"]:
    """e_c = (√F · table_c[token] + rms_norm(x · project_c / √D)) / √2, for each layer c.

    A token's vector carries from layer to layer what the token is, beside all that is learned of others. With
    a table for each layer it needn't: the layer looks it up again (Gemma 3n, Google 2025; Gemma 4, 2026).
    Such tables are large, but a token reads one row of them, so that they may lie in slow memory, or on a
    disk, where the matrices of products may not:

        token ── row of table [N, C·F], times √F ─────────┐
          │                                               + ── /√2 ── e_0 | e_1 | … | e_C−1    F numbers each
          └── embedding x ── project, /√D ── rms_norm ────┘            to `per_layer_update` of layer 0, 1, …

    The second part knows the token by its embedding, in which words that are alike are near each other.
    Without a table it is all: e_c = rms_norm(x · project_c / √D) (EmbeddingGemma 2).

    Conventions: x is what enters the first layer. The norm is over the F numbers of one layer, its weight the
    same for all.
    """
    width = weights["norm"].shape[0]
    seen = split_last(linear(x, weights["project"]) * x.shape[-1] ** -0.5, width)
    seen = rms_norm(seen, weights["norm"], eps=eps)
    if "table" not in weights:
        return seen
    own = split_last(embedding(tokens, weights["table"]), width) * width**0.5
    return (own + seen) * 2**-0.5


@op
def per_layer_update(
    x: Float[Array, "B T D"],
    inputs: Float[Array, "B T F"],
    weights: PerLayerWeights,
    *,
    kind: Activation,
) -> Float[Array, "B T D"]:
    """(act((x ⊙ scale) · gate) ⊙ e) · project: what a layer makes of its input e, to be added to its output.

    x is that output. It is a gated mlp whose `up` isn't computed of x but looked up (Gemma 3n, Google 2025):
    what the layers have made of the text says how much of each number of the token is let through.
    """
    read = x * weights["scale"] if "scale" in weights else x
    return linear(activation(linear(read, weights["gate"]), kind=kind) * inputs, weights["project"])
