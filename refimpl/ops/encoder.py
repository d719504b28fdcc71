"""An encoder: from a whole text to one vector for each token, and from these to a head's output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..config import (
    LM,
    Classify,
    Config,
    DecoderReader,
    Dense,
    EncoderDecoder,
    Layer,
    MaskedLM,
    Plain,
    Pool,
    QuestionAnswering,
    Rope,
    Stack,
    Tag,
)
from .activation import activation
from .arrays import indices, shifted_right, zeros_like
from .block import BlockWeights, Positions, encoder_block, normalize
from .cross_attention import EncoderKV, cross_keys
from .dispatch import op
from .embedding import unembedding
from .head import pool, unit
from .linear import linear
from .longformer import question_end
from .mlp import plain_mlp
from .model import (
    HeadWeights,
    ModelWeights,
    StackWeights,
    distance_biases,
    distance_table,
    embed,
    head_dense,
    score_biases,
)
from .position import Rotary

if TYPE_CHECKING:
    from typing import Any as Array

__all__ = ["encode", "encoder_kv", "predict"]


@op
def encode(
    tokens: Array,
    lengths: Array,
    rotary: Mapping[Rope, Rotary],
    params: ModelWeights,
    token_types: Array | None = None,
    *,
    config: Config,
) -> Array:
    """The last layer's vectors [B, T, D] of the tokens [B, T], of which `lengths` [B] are real.

    `token_types` [B, T] says to which text of a pair a token belongs; without it all belong to the first.
    `rotary` has a row for each of the positions 0 … T − 1. With a reader in the Config they are the reader's
    vectors.
    """
    stack = config.stacks["encoder"]
    assert "encoder" in params
    if config.embedding.token_types is not None and token_types is None:
        token_types = zeros_like(tokens)
    entry = params["embedding"]
    at = indices(tokens.shape[1], tokens)[None]
    table_types, segments = (None, token_types) if stack.segments else (token_types, None)
    x = embed(tokens, at, entry, params["encoder"], table_types, config=config.embedding, stack=stack)
    question = None if stack.separator is None else question_end(tokens, separator=stack.separator)
    states = _layers(x, lengths, rotary, params["encoder"], None, question, segments, stack=stack)
    if not (isinstance(config, EncoderDecoder) and isinstance(config.decoder, DecoderReader)):
        return states
    assert "reader" in params
    stack, shifted = config.decoder.stack, shifted_right(tokens, config.decoder.start)
    x = embed(shifted, at, entry, params["reader"], config=config.embedding, stack=stack)
    return _layers(x, lengths, rotary, params["reader"], states, stack=stack)


def _layers(
    x: Array,
    lengths: Array,
    rotary: Mapping[Rope, Rotary],
    weights: StackWeights,
    states: Array | None = None,
    question: Array | None = None,
    segments: Array | None = None,
    *,
    stack: Stack,
) -> Array:
    """The output of a stack over whole texts; a reader's layers attend to an encoder's `states`."""
    at = indices(x.shape[1], x)
    biases = score_biases(at[None], at, weights, x.dtype, stack=stack, bidirectional=not stack.causal)
    table, local = distance_table(at, weights, stack=stack), distance_biases(weights, stack=stack)
    positions = Positions(rotary, biases, table, question, local, segments)
    for layer, leaves in zip(stack.layers, weights["layers"], strict=True):
        read = None if states is None else layer_kv(states, lengths, leaves, layer=layer)
        x = encoder_block(x, lengths, positions, leaves, read, config=layer, causal=stack.causal)
    return normalize(x, weights.get("norm"), norm=stack.final_norm)


@op
def layer_kv(states: Array, lengths: Array, weights: BlockWeights, *, layer: Layer) -> EncoderKV:
    """Keys and values of an encoder's output for a layer that reads it."""
    assert layer.cross is not None
    assert "cross" in weights
    return EncoderKV(*cross_keys(states, weights["cross"], settings=layer.cross), lengths)


@op
def encoder_kv(states: Array, lengths: Array, params: ModelWeights, *, config: Config) -> list[EncoderKV]:
    """Keys and values [B, G, S, K] of an encoder's output, for each layer of the decoder that reads it."""
    assert "decoder" in params
    layers = zip(config.layers, params["decoder"]["layers"], strict=True)
    return [layer_kv(states, lengths, weights, layer=layer) for layer, weights in layers]


def _projected(x: Array, weights: HeadWeights, config: tuple[Dense, ...]) -> Array:
    for dense, leaves in zip(config, weights.get("projections", []), strict=True):
        x = linear(x, leaves["weight"], leaves.get("bias"))
        x = x if dense.activation is None else activation(x, kind=dense.activation)
    return x


def _head_mlp(x: Array, weights: HeadWeights, mlp: Plain | None) -> Array:
    """The norm of x + mlp(x), where a head has an mlp."""
    if mlp is None:
        return x
    assert "mlp" in weights
    return normalize(
        x + plain_mlp(x, weights["mlp"], kind=mlp.activation), weights.get("mlp_after"), norm=mlp.after
    )


def _labels(x: Array, weights: HeadWeights) -> Array:
    assert "out" in weights
    return linear(x, weights["out"]["weight"], weights["out"].get("bias"))


@op
def predict(states: Array, lengths: Array, params: ModelWeights, *, config: Config) -> Array:
    """What the head makes of an encoder's output [B, T, D].

    MaskedLM: logits [B, T, N]. Tag: [B, T, labels]. QuestionAnswering: [B, T, 2], start and end. Classify:
    [B, labels]. Pool: [B, D], or the width of its last projection. What stands at padding is unspecified.
    """
    weights = params.get("head", {})
    match config.head:
        case MaskedLM(tied, dense, bias):
            table = params["embedding"]["table"] if tied else weights.get("table")
            assert table is not None
            logits = unembedding(head_dense(states, weights, dense), table)
            if not bias:
                return logits
            assert "bias" in weights
            return logits + weights["bias"]
        case Tag(_, dense):
            return _labels(head_dense(states, weights, dense), weights)
        case QuestionAnswering(dense, mlp=mlp):
            return _labels(_head_mlp(head_dense(states, weights, dense), weights, mlp), weights)
        case Classify(_, pooling, dense, late=True):
            pooled = pool(head_dense(states, weights, dense), lengths, pooling=pooling)[:, None]
            return _labels(pooled, weights).squeeze(1)
        case Classify(_, pooling, dense):
            pooled = pool(states, lengths, pooling=pooling)[:, None]
            return _labels(head_dense(pooled, weights, dense), weights).squeeze(1)
        case Pool(pooling, dense, normalized, projections):
            pooled = head_dense(pool(states, lengths, pooling=pooling)[:, None], weights, dense)
            vector = _projected(pooled, weights, projections).squeeze(1)
            return unit(vector) if normalized else vector
        case LM():
            raise AssertionError("a Config's check keeps LM for decoders")
