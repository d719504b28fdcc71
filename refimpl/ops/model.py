"""A decoder: tokens in, logits out, cache carried along; and what its stack shares with an encoder's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import (
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
    from numpy import ndarray as Array

__all__ = ["embed", "lm_logits", "model", "position_tables", "score_biases"]


def position_tables(positions: Array, *, config: Config) -> dict[Rope, tuple[Array, Array]]:
    """Cosines and sines [M, J] at the given positions, float64, for each Rope of the Config.

    Where frequencies depend on the length of the text, they are those for the Config's `context`.
    """
    made = {}
    for rope in config.ropes:
        f, magnitude = rope_frequencies(np.arange(rope.dims // 2), theta=rope.theta), 1.0
        match rope.scaling:
            case None:
                pass
            case LinearScaling(factor):
                f = linear_scaling(f, factor=factor)
            case DynamicNTK(factor, original):
                f = dynamic_ntk_scaling(f, factor=factor, original_context=original, context=config.context)
            case Yarn(factor, original, fast, slow, truncate, own):
                f = yarn_scaling(
                    f,
                    theta=rope.theta,
                    factor=factor,
                    beta_fast=fast,
                    beta_slow=slow,
                    original_context=original,
                    truncate=truncate,
                )
                magnitude = own if own is not None else 1 + 0.1 * math.log(max(factor, 1.0))
            case LongRope(short, long, original, magnitude):
                f = longrope_scaling(
                    f, np.array(short), np.array(long), original_context=original, context=config.context
                )
            case Llama3Scaling(factor, low, high, original):
                f = llama3_scaling(
                    f,
                    factor=factor,
                    low_freq_factor=low,
                    high_freq_factor=high,
                    original_context=original,
                )
        made[rope] = rope_tables(positions, f, magnitude=magnitude)
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
    """What comes before the first layer: vectors [B, T, D] of the tokens [B, T] at positions [B, T].

    `own` are the leaves of the embedding, `tree` those of the stack. The order is scale, map to the
    model's width, `types` [B, T], positions, norm (BERT, BART, OPT); a `late` map is the last (ELECTRA).
    """
    x = embedding(tokens, own["table"])
    x = x if config.scale is None else x * config.scale
    if config.projection is not None and not config.projection.late:
        x = linear(x, own["project"], own.get("project_bias"))
    if types is not None:
        x = x + embedding(types, own["token_types"])
    match stack.positions:
        case Learned(_, offset):
            x = x + learned(positions, tree["positions"], offset=offset)
        case Sinusoidal(theta, interleaved):
            frequencies = rope_frequencies(np.arange(x.shape[-1] // 2), theta=theta)
            x = x + sinusoidal(positions, frequencies, interleaved=interleaved).astype(x.dtype)
        case None:
            pass
    x = normalize(x, tree.get("first_norm"), norm=stack.first_norm)
    late = config.projection is not None and config.projection.late
    return linear(x, own["project"], own.get("project_bias")) if late else x


def score_biases(
    queries: Array, keys: Array, tree: Any, dtype: Any, *, stack: Stack, bidirectional: bool
) -> dict[Any, Array]:
    """The bias [B, H, T, S] of each position of the stack that has one, by (position, heads)."""
    made: dict[Any, Array] = {}
    for a in dict.fromkeys(layer.attention for layer in stack.layers):
        match a.position:
            case Alibi(max_bias, scale):
                slopes = (scale * alibi_slopes(np.arange(a.heads), max_bias=max_bias)).astype(dtype)
                made[a.position, a.heads] = alibi_bias(slopes, queries, keys)
            case RelativeBias(buckets, distance):
                found = relative_buckets(
                    queries, keys, buckets=buckets, max_distance=distance, bidirectional=bidirectional
                )
                made[a.position, a.heads] = relative_bias(found, tree["relative_bias"])
            case _:
                pass
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
    """Logits [B, P, N] of the tokens [B, T] at the positions `at` [B, P], and the new cache.

    `past` [B] tokens of each row are in the cache, a pair (keys, values) [B, G, L, K] a layer with
    L ≥ past + T. `at` counts within the call: only these positions pay for the last layer's mlp and
    for the output table. A decoder that reads an encoder is given what `memory` made of its output,
    and its lengths [B].
    """
    stack, head, leaves = config.stacks["decoder"], config.head, tree["decoder"]
    assert isinstance(head, LM)
    queries = past[:, None] + np.arange(tokens.shape[1])
    x = embed(tokens, queries, tree["embedding"], leaves, config=config.embedding, stack=stack)
    keys = np.arange(cache[0][0].shape[2])
    near = tables | score_biases(queries, keys, leaves, x.dtype, stack=stack, bidirectional=False)
    new = []
    others = [None] * len(cache) if read is None else [(k, v, read[1]) for k, v in read[0]]
    wanted = [None] * (len(cache) - 1) + [at]
    turns = zip(stack.layers, cache, leaves["layers"], others, wanted, strict=True)
    for layer, pair, own, other, only in turns:
        x, pair = block(x, pair, past, near, own, other, only, config=layer)
        new.append(pair)
    x = normalize(x, leaves.get("norm"), norm=stack.final_norm)
    x = x if config.embedding.projection is None else linear(x, tree["head"]["project"])
    table = tree["embedding" if head.tied else "head"]["table"]
    return lm_logits(x, table, tree["head"]["bias"] if head.bias else None, head=head), new


def lm_logits(x: Array, table: Array | Blocks, bias: Array | None, *, head: LM) -> Array:
    """Logits [B, P, N] over the rows of a table: scale, bias, and the cap at last."""
    logits = unembedding(x, table)
    logits = logits if head.scale is None else logits * head.scale
    logits = logits if bias is None else logits + bias
    return logits if head.softcap is None else head.softcap * np.tanh(logits / head.softcap)
