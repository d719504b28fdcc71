"""Heads, which compute the model's output from the last layer's vectors: logits of tokens or labels, or one
vector per text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from ..config import LM, Dense, Head, Pooling
from .activation import activation, tanh
from .adaptive_softmax import Tail, adaptive_log_probs
from .arrays import as_type, indices, largest, row_sum, split, sqrt, token_sum, tokens_at, where
from .dispatch import observe, op
from .embedding import unembedding
from .linear import linear
from .mask import padding_mask
from .mlp import PlainMlpWeights, plain_mlp
from .norm import NormWeights, normalize
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class LinearWeights(TypedDict):
    """The parameters of a linear layer."""

    weight: Float[Array, "D F"] | Blocks
    bias: NotRequired[Float[Array, " F"]]


class LabelWeights(TypedDict):
    """The parameters of a map to labels, or to the space of a model's text embeddings.

    The map is small, and no later layer averages out its rounding error. So the map stays in floating
    point.
    """

    weight: Float[Array, "D F"]
    bias: NotRequired[Float[Array, " F"]]


class HeadWeights(TypedDict):
    """The parameters of a head. Only the parameters that the head's settings need are present.

    N is the number of rows of a table. `project` maps the model's width D to the tables' width C. The
    dense map maps D or C to F. The last X of F elements may have a table of their own, `further`.
    `frequent` has W columns, for the short list and for the clusters `tails`.
    """

    project: NotRequired[Float[Array, "D C"] | Blocks]
    dense: NotRequired[LinearWeights]
    norm: NotRequired[NormWeights]
    mlp: NotRequired[PlainMlpWeights]
    mlp_after: NotRequired[NormWeights]
    table: NotRequired[Float[Array, "N F"] | Float[Array, "N C"] | Blocks]
    further: NotRequired[Float[Array, "X N"] | Blocks]
    frequent: NotRequired[Float[Array, "F W"] | Blocks]
    bias: NotRequired[Float[Array, " N"] | Float[Array, " W"]]
    tails: NotRequired[list[Tail]]
    out: NotRequired[LabelWeights]
    projections: NotRequired[list[LabelWeights]]


@op
def pool(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    *,
    pooling: Pooling,
) -> Float[Array, "B D"]:
    """Return one vector per text: the vector of its first or last token, the mean of all vectors, or the
    maximum of each element.

    Conventions: padding doesn't count, so `last` is the last real token. A text without tokens gives
    zeros.
    """
    match pooling:
        case "mean":
            return token_sum(_real(x, lengths, 0.0)) / as_type(lengths.clip(min=1)[:, None], x.dtype)
        case "first":
            y = x[:, 0]
        case "last":
            y = tokens_at(x, (lengths - 1).clip(min=0)[:, None])[:, 0]
        case "max":
            y = largest(_real(x, lengths, -math.inf), 1)
    return where(lengths[:, None] > 0, y, 0.0)


def _real(x: Array, lengths: Array, padding: float) -> Array:
    """Return the vectors of tokens, with the same number in place of all vectors at padding."""
    return where(padding_mask(indices(x.shape[1], x), lengths)[:, :, None], x, padding)


@op
def unit(x: Float[Array, "B D"], *, eps: float = 1e-12) -> Float[Array, "B D"]:
    """Scale each vector to length 1: x / max(‖x‖, eps). Then the dot product of two vectors is their
    cosine.
    """
    return x / sqrt(row_sum(x * x)).clip(min=eps)


@op
def head_dense(x: Array, weights: HeadWeights, config: Dense | None) -> Array:
    """Apply a head's first linear map, activation and norm to x [B, T, D]. A head without these returns x."""
    if config is None:
        return x
    assert "dense" in weights
    x = linear(x, weights["dense"]["weight"], weights["dense"].get("bias"))
    if config.activation is not None:
        x = activation(x, kind=config.activation)
    return normalize(x, weights.get("norm"), norm=config.norm)


@op
def lm_logits(x: Array, table: Array | Blocks, bias: Array | None, *, head: LM) -> Array:
    """Return logits [B, P, N] for the N rows of a table. The logits are first scaled, then the bias is
    added, and then they are soft-capped.
    """
    logits = unembedding(x, table)
    if head.scale is not None:
        logits = logits * head.scale
    if bias is not None:
        logits = logits + bias
    return logits if head.softcap is None else head.softcap * tanh(logits / head.softcap)


def _table(weights: HeadWeights, entry: Mapping[str, Any], head: Head) -> Array | Blocks:
    """Return the table of a head: the head's own table, or the embedding's table of tokens."""
    if head.tied:
        return entry["table"]
    assert "table" in weights
    return weights["table"]


def logits(x: Array, weights: HeadWeights, entry: Mapping[str, Any], *, head: LM) -> Array:
    """Return the logits [B, P, N] of a decoder's vectors x [B, P, D]. `entry` contains the embedding's
    parameters, in which the head may find its table."""
    if "project" in weights:
        x = linear(x, weights["project"])
    x = observe("head, input", head_dense(x, weights, head.dense))
    if head.adaptive is None:
        return lm_logits(x, _table(weights, entry, head), weights.get("bias"), head=head)
    assert "frequent" in weights
    assert "tails" in weights
    return adaptive_log_probs(x, weights["frequent"], weights["tails"], weights.get("bias"))


def predictions(
    x: Array, lengths: Array, weights: HeadWeights, entry: Mapping[str, Any], *, head: Head
) -> Array:
    """Return what a head computes from whole texts x [B, T, D].

    If the head pools, the vectors are pooled first. Then come the head's dense map, its mlp and its
    projections, and last the map to a table or to labels. A `late` head pools after its dense map.
    """

    def pooled(x: Array) -> Array:
        return x if head.pooling is None else pool(x, lengths, pooling=head.pooling)[:, None]

    x = x if head.late else pooled(x)
    x = head_dense(x, weights, head.dense)
    x = pooled(x) if head.late else x
    if head.mlp is not None:
        assert "mlp" in weights
        y = x + plain_mlp(x, weights["mlp"], kind=head.mlp.activation)
        x = normalize(y, weights.get("mlp_after"), norm=head.mlp.after)
    for dense, leaves in zip(head.projections, weights.get("projections", []), strict=True):
        x = linear(x, leaves["weight"], leaves.get("bias"))
        x = x if dense.activation is None else activation(x, kind=dense.activation)
    if head.last == "table":
        x, more = (
            split(x, (x.shape[-1] - head.further, head.further)) if head.further is not None else (x, None)
        )
        x = unembedding(x, _table(weights, entry, head))
        if more is not None:
            assert "further" in weights
            x = x + linear(more, weights["further"])
        x = x + weights["bias"] if "bias" in weights else x
    elif head.last == "labels":
        assert "out" in weights
        x = linear(x, weights["out"]["weight"], weights["out"].get("bias"))
    x = x if head.pooling is None else x.squeeze(1)
    return unit(x) if head.unit else x
