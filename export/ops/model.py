"""A decoder-only model: tokens in, logits out, cache carried along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...refimpl.config import Config, LinearScaling, Llama3Scaling, Rope
from .block import block, normalize
from .embedding import embedding, unembedding
from .position import linear_scaling, llama3_scaling, rope_frequencies, rope_tables

if TYPE_CHECKING:
    from torch import Tensor as Array

__all__ = ["model", "position_tables"]


def _frequencies(rope: Rope) -> Array:
    base = rope_frequencies(torch.arange(rope.dims // 2), theta=rope.theta)
    match rope.scaling:
        case Llama3Scaling() as s:
            return llama3_scaling(
                base,
                factor=s.factor,
                low_freq_factor=s.low_freq_factor,
                high_freq_factor=s.high_freq_factor,
                original_context=s.original_context,
            )
        case LinearScaling() as s:
            return linear_scaling(base, factor=s.factor)
        case None:
            return base


def position_tables(positions: Array, *, config: Config) -> dict[Rope, tuple[Array, Array]]:
    """Cosines and sines [M, J] at the given positions, float64, for each Rope of the Config."""
    return {rope: rope_tables(positions, _frequencies(rope)) for rope in config.ropes}


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
    """Layers in order; the wanted positions are gathered before the last norm."""
    decoder, cap = tree["decoder"], config.head.softcap
    x = embedding(tokens, tree["embedding"]["table"])
    if config.embedding.scale is not None:
        x = config.embedding.scale * x
    new = []
    for i, layer in enumerate(config.decoder.layers):
        x, pair = block(x, cache[i], past, tables, decoder["layers"][i], config=layer)
        new.append(pair)
    wanted = x.gather(1, at.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
    wanted = normalize(wanted, decoder.get("norm"), norm=config.decoder.final_norm)
    logits = unembedding(wanted, tree["embedding" if config.head.tied else "head"]["table"])
    return logits if cap is None else torch.tanh(logits / cap) * cap, new
