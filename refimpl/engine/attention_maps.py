"""Where the heads of a model look: its layers one after the other, their attention weights kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..config import Attention, Config, Rope, Window
from ..ops.attention import attention_weights
from ..ops.block import block, encoder_block, normalize, projected
from ..ops.mask import causal_mask, window_mask
from ..ops.model import embed, position_tables, score_biases
from ..ops.position import rotate


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
    tables: dict[Any, Any] = {
        rope: (cos.astype(x.dtype), sin.astype(x.dtype))
        for rope, (cos, sin) in position_tables(at, config=config).items()
    }
    tables |= score_biases(at[None], at, leaves, x.dtype, stack=stack, bidirectional=both)
    for layer, lazy in zip(stack.layers, leaves["layers"], strict=True):
        own = {part: {leaf: lazy[part][leaf] for leaf in lazy[part]} for part in lazy}
        a = layer.attention
        given = normalize(x, own.get("attn_pre"), norm=a.pre)
        yield _weights(given, own["attn"], tables, a, bidirectional=both)[0]
        if name == "encoder":
            lengths = np.array([len(tokens)])
            x = encoder_block(x, lengths, tables, own, config=layer, causal=stack.causal)
        else:
            empty = np.zeros((1, a.kv_heads, len(tokens), a.head_size), x.dtype)
            x, _ = block(x, (empty, empty), np.array([0]), tables, own, config=layer)


def _weights(x: np.ndarray, tree: Any, tables: Any, a: Attention, *, bidirectional: bool) -> np.ndarray:
    """`attention_weights` of a sublayer's input [1, T, D]."""
    q, k, _ = projected(x, tree, config=a)
    bias = None
    if isinstance(a.position, Rope):
        cos, sin = tables[a.position]
        q, k = (rotate(y, cos[None], sin[None], interleaved=a.position.interleaved) for y in (q, k))
    elif a.position is not None:
        bias = tables[a.position, a.heads]
    at = np.arange(x.shape[1])
    window = a.mask.size if isinstance(a.mask, Window) else None
    mask = (window_mask if bidirectional else causal_mask)(at[None], at, window=window)
    return attention_weights(q, k, mask, bias, scale=a.scale, softcap=a.softcap)
