"""An encoder: a whole text at once in, a vector a token out; and what is read off these vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import (
    LM,
    Classify,
    Config,
    DecoderReader,
    Dense,
    EncoderDecoder,
    Layer,
    MaskedLM,
    Pool,
    QuestionAnswering,
    Tag,
)
from .activation import activation
from .block import encoder_block, normalize
from .cross_attention import cross_keys
from .embedding import unembedding
from .head import pool, unit
from .linear import linear
from .model import embed, score_biases

if TYPE_CHECKING:
    from numpy import ndarray as Array

__all__ = ["encode", "memory", "predict"]


def encode(
    tokens: Array, lengths: Array, tables: Any, tree: Any, types: Array | None = None, *, config: Config
) -> Array:
    """The last layer's vectors [B, T, D] of the tokens [B, T], of which `lengths` [B] are real.

    `types` [B, T] says of which text of a pair a token is; the first, where nothing is given.
    `tables` are those of the positions 0 … T − 1. With a reader in the Config they are the reader's vectors.
    """
    if config.embedding.token_types is not None and types is None:
        types = np.zeros_like(tokens)
    states = _through("encoder", tokens, lengths, tables, tree, types, config=config)
    if not (isinstance(config, EncoderDecoder) and isinstance(config.decoder, DecoderReader)):
        return states
    shifted = begun(tokens, config.decoder.start)
    return _through("reader", shifted, lengths, tables, tree, states=states, config=config)


def begun(tokens: Array, start: int) -> Array:
    """The text from the token `start` on, one place later, as a reader is given it."""
    return np.concatenate([np.full_like(tokens[:, :1], start), tokens[:, :-1]], axis=1)


def _through(
    name: str,
    tokens: Array,
    lengths: Array,
    tables: Any,
    tree: Any,
    types: Array | None = None,
    states: Array | None = None,
    *,
    config: Config,
) -> Array:
    """The vectors that a stack makes of whole texts, which may read an encoder's `states` of them."""
    stack, leaves, e = config.stacks[name], tree[name], config.embedding
    at = np.arange(tokens.shape[1])
    x = embed(tokens, at[None], tree["embedding"], leaves, types, config=e, stack=stack)
    near = tables | score_biases(at[None], at, leaves, x.dtype, stack=stack, bidirectional=not stack.causal)
    for layer, own in zip(stack.layers, leaves["layers"], strict=True):
        read = None if states is None else (*keys_of(states, own, layer), lengths)
        x = encoder_block(x, lengths, near, own, read, config=layer, causal=stack.causal)
    return normalize(x, leaves.get("norm"), norm=stack.final_norm)


def keys_of(states: Array, tree: Any, layer: Layer) -> tuple[Array, Array]:
    """Keys and values of an encoder's output for a layer that reads it."""
    assert layer.cross is not None
    leaves = {name: leaf for name, leaf in tree["cross"].items() if name in ("wk", "bk", "wv", "bv")}
    return cross_keys(states, **leaves, head_size=layer.cross.head_size)


def memory(states: Array, tree: Any, *, config: Config) -> list[tuple[Array, Array]]:
    """Keys and values [B, G, S, K] of an encoder's output, for each layer of the decoder that reads it."""
    layers = zip(config.layers, tree["decoder"]["layers"], strict=True)
    return [keys_of(states, own, layer) for layer, own in layers]


def _dense(x: Array, tree: Any, config: Dense | None) -> Array:
    if config is None:
        return x
    x = linear(x, **tree["dense"])
    x = x if config.activation is None else activation(x, kind=config.activation)
    return normalize(x, tree.get("norm"), norm=config.norm)


def predict(states: Array, lengths: Array, tree: Any, *, config: Config) -> Array:
    """What the head says of an encoder's output [B, T, D].

    MaskedLM: logits [B, T, N]. Tag: [B, T, labels]. QuestionAnswering: [B, T, 2], start and end. Classify:
    [B, labels]. Pool: [B, D]. What stands at padding is unspecified.
    """
    own = tree.get("head", {})
    match config.head:
        case MaskedLM(tied, before, bias):
            logits = unembedding(_dense(states, own, before), (tree["embedding"] if tied else own)["table"])
            return logits + own["bias"] if bias else logits
        case Tag(_, before) | QuestionAnswering(before):
            return linear(_dense(states, own, before), **own["out"])
        case Classify(_, pooling, before):
            pooled = pool(states, lengths, pooling=pooling)[:, None]
            return linear(_dense(pooled, own, before), **own["out"])[:, 0]
        case Pool(pooling, before, normalized):
            pooled = _dense(pool(states, lengths, pooling=pooling)[:, None], own, before)[:, 0]
            return unit(pooled) if normalized else pooled
        case LM():
            raise AssertionError("a Config's check keeps LM for decoders")
