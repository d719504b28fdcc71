"""The attention weights of each head, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..config import Attention, BigBirdBlocks, Config, DisentangledAttention, XLNetAttention
from ..errors import ConfigError
from ..ops.altup import altup_predict
from ..ops.attention import attention_weights, positioned, project
from ..ops.bigbird import bigbird_mask
from ..ops.block import BlockWeights, CachedAttentionWeights, Positions, normalize, rotary_and_bias
from ..ops.cache import KVCache
from ..ops.disentangled import DisentangledWeights, queries_and_keys
from ..ops.linear import linear
from ..ops.mask import seen_by
from ..ops.position import rotate
from ..ops.shared_attention import SharedAttentionWeights, queries
from ..ops.xlnet import XLNetWeights
from ..ops.xlnet import queries_and_keys as relative_scores
from .stack_walk import StackWalk

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array


def attention_maps(
    config: Config, params: Mapping[str, Any], tokens: Int[Array, " T"]
) -> Iterator[Float[Array, "H T T"]]:
    """The weights of each layer, query by key, for the tokens of one text.

    A model with an encoder gives the encoder's. Each leaf is read once, when its layer is computed, so that
    `params` may be lazy.
    """
    walk = StackWalk(config, next(iter(config.stacks)))
    stack_params = params[walk.name]
    lengths = np.array([len(tokens)])
    x = walk.enter(tokens[None], params["embedding"], stack_params)
    positions = walk.positions(len(tokens), stack_params, x.dtype)
    shared = walk.shared(tokens[None], x, params["embedding"])
    for i, layer in enumerate(walk.stack.layers):
        if not isinstance(layer.attention, Attention | DisentangledAttention | XLNetAttention):
            got = type(layer.attention).__name__
            raise ConfigError(f"attention weights need attention in each layer, layer {i} has {got}")
        leaves = _read(stack_params["layers"][i])
        weights = cast(BlockWeights, leaves)
        read = x
        if layer.altup is not None:
            assert "altup" in weights
            read = altup_predict(x, weights["altup"], settings=layer.altup)[:, :, layer.altup.active]
        attention_input = normalize(read, weights.get("attn_pre"), norm=layer.attention.pre)
        if layer.beside is not None and layer.beside.attention_in is not None:
            attention_input = attention_input * layer.beside.attention_in
        if isinstance(layer.attention, DisentangledAttention):
            distant = cast(DisentangledWeights, leaves["attn"])
            yield _disentangled_map(attention_input, distant, positions, layer.attention)
        elif isinstance(layer.attention, XLNetAttention):
            relative = cast(XLNetWeights, leaves["attn"])
            q, k, bias = relative_scores(attention_input, relative, None, settings=layer.attention)
            yield attention_weights(q, k, None, bias)[0]
        elif layer.kv_layer is not None:
            asking = cast(SharedAttentionWeights, leaves["attn"])
            yield _shared_map(attention_input, asking, positions, layer.attention, shared.kv[layer.kv_layer])
        else:
            attn = cast(CachedAttentionWeights, leaves["attn"])
            yield _attention_map(attention_input, attn, positions, layer.attention, walk.bidirectional)
        x, _ = walk.layer(i, x, lengths, positions, weights, shared)


def _read(part: Any) -> Any:
    """A part of the parameters, or a leaf, in memory."""
    return {name: _read(part[name]) for name in part} if isinstance(part, Mapping) else part


def _disentangled_map(
    x: Float[Array, "1 T D"],
    weights: DisentangledWeights,
    positions: Positions,
    settings: DisentangledAttention,
) -> Float[Array, "H T T"]:
    """The same of a sublayer whose scores have terms of distances."""
    assert positions.distances is not None
    q, k, bias = queries_and_keys(x, weights, positions.distances, settings=settings)
    return attention_weights(q, k, None, bias, scale=settings.factor)[0]


def _shared_map(
    x: Float[Array, "1 T D"],
    weights: SharedAttentionWeights,
    positions: Positions,
    settings: Attention,
    cache: KVCache,
) -> Float[Array, "H T T"]:
    """The same of a sublayer that reads the keys of an earlier layer."""
    at = np.arange(x.shape[1])
    rotary = positions.angles(settings.position)
    y = linear(x, weights["wq"], weights.get("bq"))
    q = queries(y, at[None], weights.get("q_norm"), rotary, settings=settings)
    mask = seen_by(at[None], at, settings=settings, causal=True)
    keys = cache.keys.transpose(0, 2, 1, 3)
    return attention_weights(q, keys, mask, None, weights.get("sink_logits"), **settings.scoring)[0]


def _attention_map(
    x: Float[Array, "1 T D"],
    weights: CachedAttentionWeights,
    positions: Positions,
    settings: Attention,
    bidirectional: bool,
) -> Float[Array, "H T T"]:
    """The attention weights of a sublayer, from its input after the norm."""
    q, k, _ = project(x, weights, settings=settings)
    rotary, bias = rotary_and_bias(settings, positions, weights)
    at = np.arange(x.shape[1])
    q, k, rotary = positioned(q, k, at[None], weights, rotary, settings=settings)
    if rotary is not None:
        cos, sin = rotary.cos[None], rotary.sin[None]
        q = rotate(q, cos, sin, interleaved=settings.interleaved)
        k = rotate(k, cos, sin, interleaved=settings.interleaved)
    if isinstance(blocks := settings.mask, BigBirdBlocks):
        mask, bias = bigbird_mask(at, at, np.array([len(at)]), **blocks.settings)
    else:
        mask = seen_by(at[None], at, settings=settings, causal=not bidirectional)
    return attention_weights(q, k, mask, bias, weights.get("sink_logits"), **settings.scoring)[0]
