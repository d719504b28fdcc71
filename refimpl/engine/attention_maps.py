"""Where the heads of a model look: its layers one after the other, their attention weights kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..config import Attention, Config
from ..ops.attention import attention_weights, project
from ..ops.block import Positions, block, encoder_block, normalize, rotary_and_bias
from ..ops.cache import KVCache
from ..ops.mask import causal_mask, window_mask
from ..ops.model import embed, position_tables, score_biases
from ..ops.position import Rotary, rotate


def attention_maps(config: Config, params: Any, tokens: np.ndarray) -> Iterator[np.ndarray]:
    """The weights [H, T, T] of each layer, query by key, for one text's tokens [T].

    They are those of the encoder in a model that has one. Layers run as they are asked for, and each
    leaf is read once, so that `params` may be lazy.
    """
    name, stack = next(iter(config.stacks.items()))
    leaves, at, e = params[name], np.arange(len(tokens)), config.embedding
    both = name == "encoder" and not stack.causal
    types = None if e.token_types is None else np.zeros_like(tokens)[None]
    x = embed(tokens[None], at[None], params["embedding"], leaves, types, config=e, stack=stack)
    rotary = {
        rope: Rotary(cos.astype(x.dtype), sin.astype(x.dtype))
        for rope, (cos, sin) in position_tables(at, config=config).items()
    }
    biases = score_biases(at[None], at, leaves, x.dtype, stack=stack, bidirectional=both)
    positions = Positions(rotary, biases)
    for layer, lazy in zip(stack.layers, leaves["layers"], strict=True):
        own: Any = {part: {leaf: lazy[part][leaf] for leaf in lazy[part]} for part in lazy}
        a = layer.attention
        given = normalize(x, own.get("attn_pre"), norm=a.pre)
        yield _weights(given, own["attn"], positions, a, bidirectional=both)[0]
        if name == "encoder":
            lengths = np.array([len(tokens)])
            x = encoder_block(x, lengths, positions, own, config=layer, causal=stack.causal)
        else:
            empty = np.zeros((1, a.kv_heads, len(tokens), a.head_size), x.dtype)
            x, _ = block(x, KVCache(empty, empty), np.array([0]), positions, own, config=layer)


def _weights(
    x: np.ndarray, weights: Any, positions: Positions, a: Attention, *, bidirectional: bool
) -> np.ndarray:
    """`attention_weights` of a sublayer's input [1, T, D]."""
    q, k, _ = project(x, weights, settings=a)
    rotary, bias = rotary_and_bias(a, positions)
    if rotary is not None:
        q, k = (rotate(y, rotary.cos[None], rotary.sin[None], interleaved=a.interleaved) for y in (q, k))
    at = np.arange(x.shape[1])
    mask = (window_mask if bidirectional else causal_mask)(at[None], at, window=a.window)
    return attention_weights(q, k, mask, bias, scale=a.scale, softcap=a.softcap)
