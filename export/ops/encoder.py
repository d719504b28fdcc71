"""An encoder: a whole text at once in, a vector a token out; and what is read off these vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...refimpl.config import (
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
    Stack,
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
    from torch import Tensor as Array

__all__ = ["encode", "memory", "predict"]


def encode(
    tokens: Array, lengths: Array, tables: Any, tree: Any, types: Array | None = None, *, config: Config
) -> Array:
    """One stack, or two, the second over the text begun anew."""
    if config.embedding.token_types is not None and types is None:
        types = torch.zeros_like(tokens)
    own, stack = tree["embedding"], config.stacks["encoder"]
    x = _stacked(tokens, lengths, tables, own, tree["encoder"], types, None, config, stack)
    if not (isinstance(config, EncoderDecoder) and isinstance(config.decoder, DecoderReader)):
        return x
    text = begun(tokens, config.decoder.start)
    return _stacked(text, lengths, tables, own, tree["reader"], None, x, config, config.decoder.stack)


def begun(tokens: Array, start: int) -> Array:
    """A roll, as every length has the same graph."""
    at = torch.arange(tokens.shape[1], device=tokens.device)
    return torch.where(at > 0, tokens.roll(1, dims=1), start)


def _stacked(
    tokens: Array,
    lengths: Array,
    tables: Any,
    own: Any,
    tree: Any,
    types: Array | None,
    read: Array | None,
    config: Config,
    stack: Stack,
) -> Array:
    """Embedding, layers in order, the last norm."""
    at = torch.arange(tokens.shape[1], device=tokens.device)
    queries = at.unsqueeze(0)
    x = embed(tokens, queries, own, tree, types, config=config.embedding, stack=stack)
    near = {**tables, **score_biases(queries, at, tree, x.dtype, stack=stack, bidirectional=not stack.causal)}
    for i, layer in enumerate(stack.layers):
        leaves = tree["layers"][i]
        keys = None if read is None else (*keys_of(read, leaves, layer), lengths)
        x = encoder_block(x, lengths, near, leaves, keys, config=layer, causal=stack.causal)
    return normalize(x, tree.get("norm"), norm=stack.final_norm)


def keys_of(states: Array, tree: Any, layer: Layer) -> tuple[Array, Array]:
    """Two products."""
    cross = {name: leaf for name, leaf in tree["cross"].items() if name[-1] in "kv"}
    assert layer.cross is not None
    return cross_keys(states, **cross, head_size=layer.cross.head_size)


def memory(states: Array, tree: Any, *, config: Config) -> list[tuple[Array, Array]]:
    """A pair a layer."""
    layers = enumerate(config.layers)
    return [keys_of(states, tree["decoder"]["layers"][i], layer) for i, layer in layers]


def _dense(x: Array, tree: Any, config: Dense | None) -> Array:
    if config is None:
        return x
    y = linear(x, **tree["dense"])
    if config.activation is not None:
        y = activation(y, kind=config.activation)
    return normalize(y, tree.get("norm"), norm=config.norm)


def predict(states: Array, lengths: Array, tree: Any, *, config: Config) -> Array:
    """The head's own products, after its pooling where it has one."""
    head, own = config.head, tree.get("head", {})
    assert not isinstance(head, LM)
    if isinstance(head, Classify | Pool):
        states = pool(states, lengths, pooling=head.pooling).unsqueeze(1)
    x = _dense(states, own, head.dense)
    match head:
        case MaskedLM():
            logits = unembedding(x, tree["embedding" if head.tied else "head"]["table"])
            return logits + own["bias"] if head.bias else logits
        case Tag() | QuestionAnswering():
            return linear(x, **own["out"])
        case Classify():
            return linear(x, **own["out"]).squeeze(1)
        case Pool():
            return unit(x.squeeze(1)) if head.unit else x.squeeze(1)
