"""Per-layer embeddings: each layer has a small vector for every token, read from a table instead of
computed."""

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
    from ..axes import Array, Float, Index


class PerLayerEmbeddingWeights(TypedDict):
    """The parameters that make the per-layer embeddings of all C layers. The vectors of all layers are
    side by side in one row of the table.

    The table is optional.
    """

    table: NotRequired[Float[Array, "N C*F"] | Blocks]
    project: Float[Array, "D C*F"] | Blocks
    norm: Float[Array, " F"]


class PerLayerWeights(TypedDict):
    """The parameters with which a layer uses its per-layer embedding: the gate, which maps to the
    embedding's width, and the map back to the model's width.

    A factor for the gate's input is optional.
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
    """Compute a token's per-layer embedding for each layer c: e_c = (√F · table_c[token] + rms_norm(x ·
    project_c / √D)) / √2.

    Usually, a token's vector must carry the token's identity from layer to layer, in addition to
    everything that comes from other tokens. With a table for each layer this isn't needed, since each
    layer looks up the token again (Gemma 3n, Google 2025; Gemma 4, 2026). Such tables are large, but a
    token reads only one row of them. So tables may be stored in slow memory or on a disk, unlike the
    matrices of products:

        token ── row of table [N, C·F], times √F ─────────┐
          │                                               + ── /√2 ── e_0 | e_1 | … | e_C−1    F numbers each
          └── embedding x ── project, /√D ── rms_norm ────┘            to `per_layer_update` of layer 0, 1, …

    The second part depends on the token's embedding, in which similar words are near each other. Without a
    table, the second part is the only one: e_c = rms_norm(x · project_c / √D) (EmbeddingGemma 2).

    Conventions: x is the input of the first layer. The norm is over the F numbers of one layer; its weight
    is the same for all layers.
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
    """Compute what a layer adds to its output x from its per-layer embedding e: (act((x ⊙ scale) · gate) ⊙
    e) · project.

    This is like a gated mlp with an `up` that is looked up instead of computed from x (Gemma 3n, Google
    2025). The text so far decides how much of each number of e is let through.
    """
    read = x * weights["scale"] if "scale" in weights else x
    return linear(activation(linear(read, weights["gate"]), kind=kind) * inputs, weights["project"])
