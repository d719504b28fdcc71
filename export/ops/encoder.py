"""An encoder: from a whole text to one vector for each token, and from these to a head's output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

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
    Plain,
    Pool,
    QuestionAnswering,
    Rope,
    Stack,
    Tag,
)
from ...refimpl.ops.activation import activation
from ...refimpl.ops.block import BlockWeights, Positions, encoder_block, normalize
from ...refimpl.ops.cross_attention import EncoderKV, cross_keys
from ...refimpl.ops.embedding import unembedding
from ...refimpl.ops.head import pool, unit
from ...refimpl.ops.linear import linear
from ...refimpl.ops.longformer import question_end
from ...refimpl.ops.mlp import plain_mlp
from ...refimpl.ops.model import (
    HeadWeights,
    ModelWeights,
    StackWeights,
    distance_biases,
    distance_table,
    embed,
    head_dense,
    score_biases,
)
from ...refimpl.ops.position import Rotary
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from torch import Tensor as Array


@torch_body
def encode(
    tokens: Array,
    lengths: Array,
    rotary: Mapping[Rope, Rotary],
    params: ModelWeights,
    token_types: Array | None = None,
    *,
    config: Config,
) -> Array:
    """One stack, or two, the second over the shifted text."""
    stack, e = config.stacks["encoder"], config.embedding
    assert "encoder" in params
    if e.token_types is not None and token_types is None:
        token_types = torch.zeros_like(tokens)
    queries = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)
    weights = params["encoder"]
    table_types, segments = (None, token_types) if stack.segments else (token_types, None)
    x = embed(tokens, queries, params["embedding"], weights, table_types, config=e, stack=stack)
    question = None if stack.separator is None else question_end(tokens, separator=stack.separator)
    x = _layers(x, lengths, rotary, weights, None, question, segments, stack=stack)
    if not (isinstance(config, EncoderDecoder) and isinstance(config.decoder, DecoderReader)):
        return x
    assert "reader" in params
    stack, weights = config.decoder.stack, params["reader"]
    text = shift_right(tokens, config.decoder.start)
    y = embed(text, queries, params["embedding"], weights, config=e, stack=stack)
    return _layers(y, lengths, rotary, weights, x, stack=stack)


@torch_body
def shift_right(tokens: Array, start: int) -> Array:
    """A roll, so that every length has the same graph."""
    at = torch.arange(tokens.shape[1], device=tokens.device)
    return torch.where(at > 0, tokens.roll(1, dims=1), start)


def _layers(
    x: Array,
    lengths: Array,
    rotary: Mapping[Rope, Rotary],
    weights: StackWeights,
    states: Array | None = None,
    question: Array | None = None,
    segments: Array | None = None,
    *,
    stack: Stack,
) -> Array:
    """Layers in order, the last norm."""
    at = torch.arange(x.shape[1], device=x.device)
    both = not stack.causal
    biases = score_biases(at.unsqueeze(0), at, weights, x.dtype, stack=stack, bidirectional=both)
    table, local = distance_table(at, weights, stack=stack), distance_biases(weights, stack=stack)
    positions = Positions(rotary, biases, table, question, local, segments)
    for i, layer in enumerate(stack.layers):
        leaves = weights["layers"][i]
        read = None if states is None else layer_kv(states, lengths, leaves, layer=layer)
        x = encoder_block(x, lengths, positions, leaves, read, config=layer, causal=stack.causal)
    return normalize(x, weights.get("norm"), norm=stack.final_norm)


@torch_body
def layer_kv(states: Array, lengths: Array, weights: BlockWeights, *, layer: Layer) -> EncoderKV:
    """Two products."""
    assert layer.cross is not None
    assert "cross" in weights
    keys, values = cross_keys(states, weights["cross"], settings=layer.cross)
    return EncoderKV(keys, values, lengths)


@torch_body
def encoder_kv(states: Array, lengths: Array, params: ModelWeights, *, config: Config) -> list[EncoderKV]:
    """Keys and values for each layer of the decoder."""
    assert "decoder" in params
    leaves = params["decoder"]["layers"]
    return [layer_kv(states, lengths, leaves[i], layer=layer) for i, layer in enumerate(config.layers)]


def _projected(x: Array, weights: HeadWeights, config: tuple[Dense, ...]) -> Array:
    y = x
    for i, dense in enumerate(config):
        leaves = weights.get("projections", [])[i]
        y = linear(y, leaves["weight"], leaves.get("bias"))
        y = y if dense.activation is None else activation(y, kind=dense.activation)
    return y


def _head_mlp(x: Array, weights: HeadWeights, mlp: Plain | None) -> Array:
    """A sublayer without a norm before it."""
    if mlp is None:
        return x
    assert "mlp" in weights
    y = x + plain_mlp(x, weights["mlp"], kind=mlp.activation)
    return normalize(y, weights.get("mlp_after"), norm=mlp.after)


def _labels(x: Array, weights: HeadWeights) -> Array:
    assert "out" in weights
    return linear(x, weights["out"]["weight"], weights["out"].get("bias"))


@torch_body
def predict(states: Array, lengths: Array, params: ModelWeights, *, config: Config) -> Array:
    """The head's own products, after its pooling if it has one."""
    head, weights = config.head, params.get("head", {})
    assert not isinstance(head, LM)
    late = isinstance(head, Classify) and head.late
    x = states
    if isinstance(head, Classify | Pool) and not late:
        x = pool(x, lengths, pooling=head.pooling).unsqueeze(1)
    x = head_dense(x, weights, head.dense)
    match head:
        case MaskedLM():
            table = params["embedding"]["table"] if head.tied else weights.get("table")
            assert table is not None
            logits = unembedding(x, table)
            if not head.bias:
                return logits
            assert "bias" in weights
            return logits + weights["bias"]
        case Tag():
            return _labels(x, weights)
        case QuestionAnswering():
            return _labels(_head_mlp(x, weights, head.mlp), weights)
        case Classify():
            x = pool(x, lengths, pooling=head.pooling).unsqueeze(1) if late else x
            return _labels(x, weights).squeeze(1)
        case Pool():
            vector = _projected(x, weights, head.projections).squeeze(1)
            return unit(vector) if head.unit else vector
