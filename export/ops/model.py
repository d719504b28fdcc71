"""A decoder: tokens and cache in, logits and cache out; and what its stack shares with an encoder's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch

from ...refimpl.config import (
    LM,
    Alibi,
    Attention,
    Config,
    Decoder,
    Dense,
    Embedding,
    Learned,
    RelativeBias,
    Rope,
    Sinusoidal,
    Stack,
)
from ...refimpl.ops.activation import activation
from ...refimpl.ops.adaptive_softmax import adaptive_log_probs
from ...refimpl.ops.altup import enter_streams, leave_streams
from ...refimpl.ops.bias import alibi_bias, alibi_slopes, relative_bias, relative_buckets
from ...refimpl.ops.block import (
    NO_INPUTS,
    LayerInputs,
    MixerCache,
    Positions,
    block,
    normalize,
)
from ...refimpl.ops.cache import KVCache
from ...refimpl.ops.cross_attention import EncoderKV
from ...refimpl.ops.disentangled import DistanceTable, distance_rows
from ...refimpl.ops.embedding import embedding, unembedding
from ...refimpl.ops.linear import linear
from ...refimpl.ops.longt5 import DistanceBiases
from ...refimpl.ops.model import (
    EmbeddingWeights,
    HeadWeights,
    ModelWeights,
    StackWeights,
)
from ...refimpl.ops.mtp import mtp_input
from ...refimpl.ops.per_layer import per_layer_inputs
from ...refimpl.ops.position import Rotary, learned, rope_frequencies, sinusoidal
from ...refimpl.ops.quant import Blocks
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from torch import Tensor as Array
    from torch import dtype as DType


@torch_body
def embed(
    tokens: Array,
    positions: Array,
    weights: EmbeddingWeights,
    stack_weights: StackWeights,
    token_types: Array | None = None,
    *,
    config: Embedding,
    stack: Stack,
) -> Array:
    """Rows of tables, a map to the model's width before or after what is added, the first norm.

    Positions are added before that norm or after it.
    """
    x, projection = embedding(tokens, weights["table"]), config.projection
    if config.scale is not None:
        x = config.scale * x
    if projection is not None and not projection.late:
        x = _to_model_width(x, weights)
    if token_types is not None:
        assert "token_types" in weights
        x = x + embedding(token_types, weights["token_types"])
    if not stack.norm_before_positions:
        x = _add_positions(x, positions, stack_weights, stack=stack)
    x = normalize(x, stack_weights.get("first_norm"), norm=stack.first_norm)
    if stack.norm_before_positions:
        x = _add_positions(x, positions, stack_weights, stack=stack)
    if projection is not None and projection.late:
        x = _to_model_width(x, weights)
    return x


def _add_positions(x: Array, positions: Array, weights: StackWeights, *, stack: Stack) -> Array:
    if isinstance(stack.positions, Learned):
        assert "positions" in weights
        return x + learned(positions, weights["positions"], offset=stack.positions.offset)
    if isinstance(stack.positions, Sinusoidal):
        pairs = torch.arange(x.shape[-1] // 2, device=x.device)
        waves = sinusoidal(
            positions + stack.positions.offset,
            rope_frequencies(pairs, theta=stack.positions.theta),
            interleaved=stack.positions.interleaved,
        )
        return x + waves.to(x.dtype)
    return x


def _to_model_width(x: Array, weights: EmbeddingWeights) -> Array:
    assert "project" in weights
    return linear(x, weights["project"], weights.get("project_bias"))


@torch_body
def layer_vectors(tokens: Array, x: Array, weights: EmbeddingWeights, *, config: Embedding) -> Array | None:
    """The inputs of all layers, or None."""
    if config.per_layer is None:
        return None
    assert "per_layer" in weights
    known = torch.where(tokens < config.per_layer.rows, tokens, 0)
    return per_layer_inputs(known, x, weights["per_layer"], eps=config.per_layer.norm.eps)


@torch_body
def score_biases(
    queries: Array,
    keys: Array,
    weights: StackWeights,
    dtype: DType,
    *,
    stack: Stack,
    bidirectional: bool,
) -> dict[tuple[Alibi | RelativeBias, int], Array]:
    """One bias for all layers with the same kind of position."""
    kinds = {(a.position, a.heads) for a in stack.attentions}
    biases: dict[tuple[Alibi | RelativeBias, int], Array] = {}
    for position, heads in kinds:
        if isinstance(position, Alibi):
            slopes = alibi_slopes(torch.arange(heads, device=keys.device), max_bias=position.max_bias)
            biases[position, heads] = alibi_bias((slopes * position.scale).to(dtype), queries, keys)
        if isinstance(position, RelativeBias):
            buckets = relative_buckets(
                queries,
                keys,
                buckets=position.buckets,
                max_distance=position.max_distance,
                bidirectional=bidirectional,
            )
            if position.shared:
                assert "relative_bias" in weights
                buckets = relative_bias(buckets, weights["relative_bias"])
            biases[position, heads] = buckets
    return biases


@torch_body
def distance_table(at: Array, weights: StackWeights, *, stack: Stack) -> DistanceTable | None:
    """Rows of distances and normalized vectors."""
    distances = stack.distances
    if distances is None:
        return None
    assert "distances" in weights
    rows = distance_rows(at, at, span=distances.span, log_until=distances.log_until)
    vectors = normalize(weights["distances"], weights.get("distances_norm"), norm=distances.norm)
    return DistanceTable(rows, vectors)


@torch_body
def distance_biases(weights: StackWeights, *, stack: Stack) -> DistanceBiases | None:
    """Rows of the tables, one for each distance."""
    local = stack.longt5
    if local is None:
        return None
    assert "relative_bias" in weights
    near = _by_distance(local.radius, weights["relative_bias"], local.position)
    if local.global_block_size is None:
        return DistanceBiases(near)
    assert "global_relative_bias" in weights
    far = _by_distance(local.position.max_distance, weights["global_relative_bias"], local.position)
    return DistanceBiases(near, far)


def _by_distance(longest: int, table: Array, position: RelativeBias) -> Array:
    ahead = torch.arange(-longest, longest + 1, device=table.device)
    query = torch.zeros(1, 1, dtype=torch.int64, device=table.device)
    buckets = relative_buckets(
        query, ahead, buckets=position.buckets, max_distance=position.max_distance, bidirectional=True
    )
    return relative_bias(buckets, table).flatten(0, 2)


@torch_body
def model(
    tokens: Array,
    past: Array,
    at: Array,
    rotary: Mapping[Rope, Rotary],
    cache: list[MixerCache],
    params: ModelWeights,
    encoder_kv: list[EncoderKV] | None = None,
    *,
    config: Config,
) -> tuple[Array, list[MixerCache]]:
    """Layers in order; the wanted positions are gathered in the last."""
    x, new_cache = _hidden(tokens, past, at, rotary, cache, params, encoder_kv, config=config)
    return _logits(x, params, config=config), new_cache


@torch_body
def model_with_hidden(
    tokens: Array,
    past: Array,
    at: Array,
    rotary: Mapping[Rope, Rotary],
    cache: list[MixerCache],
    params: ModelWeights,
    *,
    config: Config,
) -> tuple[Array, Array, list[MixerCache]]:
    """All layers whole; the wanted positions are gathered before the head."""
    hidden, new_cache = _hidden(tokens, past, None, rotary, cache, params, config=config)
    return _logits(_at(hidden, at), params, config=config), hidden, new_cache


@torch_body
def mtp_model(
    tokens: Array,
    hidden: Array,
    past: Array,
    at: Array,
    rotary: Mapping[Rope, Rotary],
    cache: list[MixerCache],
    params: ModelWeights,
    *,
    config: Decoder,
) -> tuple[Array, Array, list[MixerCache]]:
    """A layer over the two vectors joined, and the decoder's head."""
    assert config.mtp is not None
    assert "mtp" in params
    weights, stack = params["mtp"], config.mtp_decoder.stack
    x = embed(tokens, past, params["embedding"], weights, config=config.embedding, stack=stack)
    x = mtp_input(x, hidden, weights, eps=config.mtp.norm.eps)
    x, new_cache = _layers(x, past, None, rotary, cache, weights, [NO_INPUTS], stack=stack)
    return _logits(_at(x, at), params, config=config), x, new_cache


def _hidden(
    tokens: Array,
    past: Array,
    at: Array | None,
    rotary: Mapping[Rope, Rotary],
    cache: list[MixerCache],
    params: ModelWeights,
    encoder_kv: list[EncoderKV] | None = None,
    *,
    config: Config,
) -> tuple[Array, list[MixerCache]]:
    """The decoder up to its last norm."""
    stack = config.stacks["decoder"]
    assert "decoder" in params
    weights = params["decoder"]
    queries = past.unsqueeze(-1) + torch.arange(tokens.shape[1], device=past.device)
    x = embed(tokens, queries, params["embedding"], weights, config=config.embedding, stack=stack)
    vectors = layer_vectors(tokens, x, params["embedding"], config=config.embedding)
    inputs = [
        LayerInputs(
            encoder_kv=None if encoder_kv is None else encoder_kv[i],
            per_layer=None if vectors is None else vectors[:, :, i],
        )
        for i in range(len(stack.layers))
    ]
    return _layers(x, past, at, rotary, cache, weights, inputs, stack=stack)


def _layers(
    x: Array,
    past: Array,
    at: Array | None,
    rotary: Mapping[Rope, Rotary],
    cache: list[MixerCache],
    weights: StackWeights,
    inputs: list[LayerInputs],
    *,
    stack: Stack,
) -> tuple[Array, list[MixerCache]]:
    """A decoder's layers and last norm."""
    queries = past.unsqueeze(-1) + torch.arange(x.shape[1], device=past.device)
    attends = [isinstance(layer.attention, Attention) for layer in stack.layers]
    capacity = cast(KVCache, cache[attends.index(True)]).capacity if any(attends) else 0
    keys = torch.arange(capacity, device=past.device)
    if stack.altup is not None:
        assert "streams" in weights
        x = enter_streams(x, weights["streams"])
    biases = score_biases(queries, keys, weights, x.dtype, stack=stack, bidirectional=False)
    positions = Positions(rotary, biases)
    new_cache: list[MixerCache] = []
    chosen: Array | None = None
    for i, layer in enumerate(stack.layers):
        leaves, source = weights["layers"][i], layer.kv_layer
        wanted = at if i + 1 == len(stack.layers) else None
        read = cache[i] if source is None else new_cache[source]
        own = inputs[i]._replace(chosen=chosen)
        x, new, chosen = block(x, read, past, positions, leaves, own, wanted, config=layer)
        if source is not None:
            new = cache[i]
        new_cache.append(new)
    if stack.altup is not None:
        assert "streams" in weights
        x = leave_streams(x, weights["streams"])
    return normalize(x, weights.get("norm"), norm=stack.final_norm), new_cache


def _at(x: Array, at: Array) -> Array:
    """A gather along the axis of tokens."""
    return torch.gather(x, 1, at.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _logits(x: Array, params: ModelWeights, *, config: Config) -> Array:
    """The decoder's head."""
    head = config.head
    assert isinstance(head, LM)
    leaves = params.get("head", {})
    if config.embedding.projection is not None:
        assert "project" in leaves
        x = linear(x, leaves["project"])
    x = head_dense(x, leaves, head.dense)
    if head.adaptive is not None:
        assert "frequent" in leaves
        assert "tails" in leaves
        return adaptive_log_probs(x, leaves["frequent"], leaves["tails"], leaves.get("bias"))
    table = params["embedding"]["table"] if head.tied else leaves.get("table")
    assert table is not None
    return lm_logits(x, table, leaves.get("bias"), head=head)


@torch_body
def head_dense(x: Array, weights: HeadWeights, config: Dense | None) -> Array:
    """A product, an activation and a norm."""
    if config is None:
        return x
    assert "dense" in weights
    y = linear(x, weights["dense"]["weight"], weights["dense"].get("bias"))
    if config.activation is not None:
        y = activation(y, kind=config.activation)
    return normalize(y, weights.get("norm"), norm=config.norm)


@torch_body
def lm_logits(x: Array, table: Array | Blocks, bias: Array | None, *, head: LM) -> Array:
    """MatMul with the transposed table, then the head's scale, bias and cap."""
    logits, cap = unembedding(x, table), head.softcap
    if head.scale is not None:
        logits = head.scale * logits
    if bias is not None:
        logits = bias + logits
    return logits if cap is None else torch.tanh(logits / cap) * cap
