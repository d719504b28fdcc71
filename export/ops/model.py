"""A decoder: tokens in, logits out, cache carried along; and what its stack shares with an encoder's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from ...refimpl.config import (
    LM,
    Alibi,
    Config,
    DynamicNTK,
    Embedding,
    Learned,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    RelativeBias,
    Rope,
    Sinusoidal,
    Stack,
    Yarn,
)
from .bias import alibi_bias, alibi_slopes, relative_bias, relative_buckets
from .block import block, normalize
from .embedding import embedding, unembedding
from .linear import linear
from .position import learned, rope_frequencies, rope_tables, sinusoidal
from .quant import Blocks
from .rope_scaling import dynamic_ntk_scaling, linear_scaling, llama3_scaling, longrope_scaling, yarn_scaling

if TYPE_CHECKING:
    from torch import Tensor as Array

__all__ = ["embed", "lm_logits", "model", "position_tables", "score_biases"]


def _scaled(base: Array, rope: Rope, context: int) -> tuple[Array, float]:
    """Frequencies, and what cosines and sines are multiplied by."""
    match rope.scaling:
        case Llama3Scaling() as s:
            return llama3_scaling(
                base,
                factor=s.factor,
                low_freq_factor=s.low_freq_factor,
                high_freq_factor=s.high_freq_factor,
                original_context=s.original_context,
            ), 1.0
        case LongRope() as s:
            short, long = torch.tensor(s.short).double(), torch.tensor(s.long).double()
            scaled = longrope_scaling(base, short, long, original_context=s.original_context, context=context)
            return scaled, s.magnitude
        case Yarn() as s:
            scaled = yarn_scaling(
                base,
                theta=rope.theta,
                factor=s.factor,
                beta_fast=s.beta_fast,
                beta_slow=s.beta_slow,
                original_context=s.original_context,
                truncate=s.truncate,
            )
            usual = 0.1 * math.log(s.factor) + 1 if s.factor > 1 else 1.0
            return scaled, usual if s.magnitude is None else s.magnitude
        case DynamicNTK() as s:
            return dynamic_ntk_scaling(
                base, factor=s.factor, original_context=s.original_context, context=context
            ), 1.0
        case LinearScaling() as s:
            return linear_scaling(base, factor=s.factor), 1.0
        case None:
            return base, 1.0


def position_tables(positions: Array, *, config: Config) -> dict[Rope, tuple[Array, Array]]:
    """Cosines and sines [M, J] at the given positions, float64, for each Rope of the Config."""
    made = {}
    for rope in config.ropes:
        base = rope_frequencies(torch.arange(rope.dims // 2), theta=rope.theta)
        frequencies, magnitude = _scaled(base, rope, config.context)
        made[rope] = rope_tables(positions, frequencies, magnitude=magnitude)
    return made


def embed(
    tokens: Array,
    positions: Array,
    own: Any,
    tree: Any,
    types: Array | None = None,
    *,
    config: Embedding,
    stack: Stack,
) -> Array:
    """Rows of tables, a map to the model's width before or after what is added, the first norm."""
    x, inner = embedding(tokens, own["table"]), config.projection
    if config.scale is not None:
        x = config.scale * x
    early = inner is not None and not inner.late
    if early:
        x = linear(x, own["project"], own.get("project_bias"))
    if types is not None:
        x = x + embedding(types, own["token_types"])
    if isinstance(stack.positions, Learned):
        x = x + learned(positions, tree["positions"], offset=stack.positions.offset)
    if isinstance(stack.positions, Sinusoidal):
        pairs = torch.arange(x.shape[-1] // 2, device=x.device)
        waves = sinusoidal(
            positions,
            rope_frequencies(pairs, theta=stack.positions.theta),
            interleaved=stack.positions.interleaved,
        )
        x = x + waves.to(x.dtype)
    x = normalize(x, tree.get("first_norm"), norm=stack.first_norm)
    if inner is not None and not early:
        x = linear(x, own["project"], own.get("project_bias"))
    return x


def score_biases(
    queries: Array, keys: Array, tree: Any, dtype: Any, *, stack: Stack, bidirectional: bool
) -> dict[Any, Array]:
    """One bias for all layers of a kind."""
    kinds = {(layer.attention.position, layer.attention.heads) for layer in stack.layers}
    made = {}
    for position, heads in kinds:
        if isinstance(position, Alibi):
            slopes = alibi_slopes(torch.arange(heads, device=keys.device), max_bias=position.max_bias)
            made[position, heads] = alibi_bias((slopes * position.scale).to(dtype), queries, keys)
        if isinstance(position, RelativeBias):
            found = relative_buckets(
                queries,
                keys,
                buckets=position.buckets,
                max_distance=position.max_distance,
                bidirectional=bidirectional,
            )
            made[position, heads] = relative_bias(found, tree["relative_bias"])
    return made


def model(
    tokens: Array,
    past: Array,
    at: Array,
    tables: Any,
    cache: list[tuple[Array, Array]],
    tree: Any,
    read: tuple[list[tuple[Array, Array]], Array] | None = None,
    *,
    config: Config,
) -> tuple[Array, list[tuple[Array, Array]]]:
    """Layers in order; the wanted positions are gathered in the last."""
    stack, head, decoder = config.stacks["decoder"], config.head, tree["decoder"]
    assert isinstance(head, LM)
    queries = past.unsqueeze(-1) + torch.arange(tokens.shape[1], device=past.device)
    keys = torch.arange(cache[0][0].shape[2], device=past.device)
    x = embed(tokens, queries, tree["embedding"], decoder, config=config.embedding, stack=stack)
    near = {**tables, **score_biases(queries, keys, decoder, x.dtype, stack=stack, bidirectional=False)}
    new = []
    for i, layer in enumerate(stack.layers):
        memory = None if read is None else (*read[0][i], read[1])
        only = at if i + 1 == len(stack.layers) else None
        x, pair = block(x, cache[i], past, near, decoder["layers"][i], memory, only, config=layer)
        new.append(pair)
    wanted = normalize(x, decoder.get("norm"), norm=stack.final_norm)
    if config.embedding.projection is not None:
        wanted = linear(wanted, tree["head"]["project"])
    table = tree["embedding" if head.tied else "head"]["table"]
    return lm_logits(wanted, table, tree.get("head", {}).get("bias"), head=head), new


def lm_logits(x: Array, table: Array | Blocks, bias: Array | None, *, head: LM) -> Array:
    """MatMul with the transposed table, and what the head does to its result."""
    logits, cap = unembedding(x, table), head.softcap
    if head.scale is not None:
        logits = head.scale * logits
    if bias is not None:
        logits = bias + logits
    return logits if cap is None else torch.tanh(logits / cap) * cap
