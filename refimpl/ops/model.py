"""A decoder-only model: tokens in, logits out, cache carried along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import Config, LinearScaling, Llama3Scaling, Rope
from .block import block, normalize
from .embedding import embedding, unembedding
from .position import linear_scaling, llama3_scaling, rope_frequencies, rope_tables

if TYPE_CHECKING:
    from numpy import ndarray as Array

__all__ = ["model", "position_tables"]


def position_tables(positions: Array, *, config: Config) -> dict[Rope, tuple[Array, Array]]:
    """Cosines and sines [M, J] at the given positions, float64, for each Rope of the Config."""
    made = {}
    for rope in config.ropes:
        frequencies = rope_frequencies(np.arange(rope.dims // 2), theta=rope.theta)
        match rope.scaling:
            case None:
                pass
            case LinearScaling(factor):
                frequencies = linear_scaling(frequencies, factor=factor)
            case Llama3Scaling(factor, low, high, original):
                frequencies = llama3_scaling(
                    frequencies,
                    factor=factor,
                    low_freq_factor=low,
                    high_freq_factor=high,
                    original_context=original,
                )
        made[rope] = rope_tables(positions, frequencies)
    return made


def model(
    tokens: Array,
    past: Array,
    at: Array,
    tables: Any,
    cache: list[tuple[Array, Array]],
    tree: Any,
    *,
    config: Config,
) -> tuple[Array, list[tuple[Array, Array]]]:
    """Logits [B, P, N] of the tokens [B, T] at the positions `at` [B, P], and the new cache.

    `past` [B] tokens of each row are in the cache, a pair (keys, values) [B, G, L, K] a layer with
    L ≥ past + T. `at` counts within the call: only these positions pay for the output table.
    """
    x = embedding(tokens, tree["embedding"]["table"])
    if config.embedding.scale is not None:
        x = x * config.embedding.scale
    new = []
    for layer, pair, leaves in zip(config.decoder.layers, cache, tree["decoder"]["layers"], strict=True):
        x, pair = block(x, pair, past, tables, leaves, config=layer)
        new.append(pair)
    x = np.take_along_axis(x, at[:, :, None], axis=1)
    x = normalize(x, tree["decoder"].get("norm"), norm=config.decoder.final_norm)
    table = tree["embedding" if config.head.tied else "head"]["table"]
    logits = unembedding(x, table)
    cap = config.head.softcap
    return logits if cap is None else cap * np.tanh(logits / cap), new
