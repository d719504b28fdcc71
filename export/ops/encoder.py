"""An encoder: a whole text at once in, a vector a token out; and what is read off these vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...refimpl.config import LM, Answer, Classify, Config, Dense, MaskedLM, Pool, Tag
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
    """Embedding, layers in order, the last norm."""
    stack, encoder = config.encoder, tree["encoder"]
    assert stack is not None
    if config.embedding.types is not None and types is None:
        types = torch.zeros_like(tokens)
    at = torch.arange(tokens.shape[1], device=tokens.device)
    queries = at.unsqueeze(0)
    x = embed(tokens, queries, tree["embedding"], encoder, types, config=config.embedding, stack=stack)
    both = not stack.causal
    near = {**tables, **score_biases(queries, at, encoder, x.dtype, stack=stack, bidirectional=both)}
    for i, layer in enumerate(stack.layers):
        x = encoder_block(x, lengths, near, encoder["layers"][i], config=layer, causal=stack.causal)
    return normalize(x, encoder.get("norm"), norm=stack.final_norm)


def memory(states: Array, tree: Any, *, config: Config) -> list[tuple[Array, Array]]:
    """Two products a layer."""
    made = []
    for layer, leaves in zip(config.layers, tree["decoder"]["layers"], strict=True):
        cross = {name: leaf for name, leaf in leaves["cross"].items() if name[-1] in "kv"}
        assert layer.cross is not None
        made.append(cross_keys(states, **cross, head_size=layer.cross.head_size))
    return made


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
        case Tag() | Answer():
            return linear(x, **own["out"])
        case Classify():
            return linear(x, **own["out"]).squeeze(1)
        case Pool():
            return unit(x.squeeze(1)) if head.unit else x.squeeze(1)
