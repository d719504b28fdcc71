"""A decoder's forward pass in parts, as the specification states it; a graph is cut into the same parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NotRequired, TypedDict, cast

import numpy as np

from ...refimpl.config import LM, Attention, Config, Gated, Layer, Mlp, MoE, NoMlp, Norm, Plain
from ...refimpl.engine.cache_kinds import layer_kind
from ...refimpl.engine.stack_walk import StackWalk
from ...refimpl.ops.activation import activation
from ...refimpl.ops.attention import (
    CachedAttentionWeights,
    ScoreTerms,
    cached_attention,
    positioned,
    project,
)
from ...refimpl.ops.block import BlockWeights, NormWeights, normalize, rotary_and_bias
from ...refimpl.ops.cache import KVCache
from ...refimpl.ops.linear import linear
from ...refimpl.ops.mlp import GatedMlpWeights, PlainMlpWeights, hidden_units
from ...refimpl.ops.model import EmbeddingWeights, HeadWeights, StackWeights, head_dense, lm_logits
from ...refimpl.ops.position import Rotary
from ...refimpl.ops.quant import Blocks
from ...refimpl.params.lazy import materialize
from ...refimpl.params.tree import Tree

Array = np.ndarray


@dataclass(frozen=True)
class ReferencePart:
    """A part as the specification states it: output = compute(*inputs, weights).

    Its name is that of its output; `inputs` are the names of other parts.
    """

    name: str
    inputs: tuple[str, ...]
    compute: Callable[..., Array]
    weights: Mapping[str, Any]


class EntryWeights(TypedDict):
    """The weights of what comes before the first layer."""

    embedding: EmbeddingWeights
    stack: StackWeights


class HeadsWeights(TypedDict):
    """The weights of an attention up to its heads; `stack` has those of its positions."""

    attn: CachedAttentionWeights
    stack: StackWeights


class OutputWeights(TypedDict):
    """The weights of a sublayer's last product, and of the norm behind it."""

    weight: Array | Blocks
    bias: NotRequired[Array]
    post: NotRequired[NormWeights]


class HeadInputWeights(TypedDict):
    """The weights between the last layer and the output table."""

    norm: NotRequired[NormWeights]
    project: NotRequired[Array | Blocks]
    head: HeadWeights


def reference_parts(config: Config, params: Tree, tokens: Array) -> Iterator[ReferencePart]:
    """The parts on the tokens [B, T], in order, up to the first layer without a plain residual stream.

    A mixture of experts ends them too: it has no single hidden value. So do a layer without attention, with
    another layer's keys and values, with a gate of its output, a state space beside it, vectors of its own
    for tokens, a learned residual, without an mlp or with a scaled or sparse one, and an adaptive softmax. A
    model whose tokens have several streams has none.
    """
    walk = StackWalk(config, "decoder")
    if walk.stack.altup is not None:
        return
    stack_params, head = params["decoder"], config.head
    assert isinstance(head, LM)
    entry = {name: stack_params[name] for name in ("positions", "relative_bias") if name in stack_params}
    first_norm = {}
    if "first_norm" in stack_params:
        first_norm = {"first_norm": materialize(stack_params["first_norm"])}

    def embed(weights: EntryWeights) -> Array:
        return walk.enter(tokens, weights["embedding"], weights["stack"])

    embedding = {"embedding": materialize(params["embedding"]), "stack": entry | first_norm}
    yield ReferencePart("embedding", (), embed, embedding)
    stream = "embedding"
    for i, layer in enumerate(config.layers):
        weights = cast(BlockWeights, materialize(stack_params["layers"][i]))
        sublayer = f"layer {i}, attention"
        if (attention := plain_attention(layer)) is None:
            return
        yield _norm_part(f"{sublayer}, input", stream, weights.get("attn_pre"), attention.pre)
        heads = partial(_attention_heads, layer=layer, walk=walk)
        attn = cast(CachedAttentionWeights, weights["attn"])
        attending = {"attn": attn, "stack": entry}
        yield ReferencePart(f"{sublayer}, heads", (f"{sublayer}, input",), heads, attending)
        if not has_plain_residual(layer):
            return
        output = _output_weights(attn["wo"], attn.get("bo"), weights.get("attn_post"))
        add = partial(_add_output, layer=layer, norm=attention.post)
        yield ReferencePart(f"{sublayer}, output", (stream, f"{sublayer}, heads"), add, output)
        stream = f"{sublayer}, output"
        if isinstance(layer.mlp, MoE | NoMlp) or is_scaled(layer.mlp):
            return
        sublayer = f"layer {i}, mlp"
        yield _norm_part(f"{sublayer}, input", stream, weights.get("mlp_pre"), layer.mlp.pre)
        hidden, mlp = partial(_mlp_hidden, layer=layer), cast(PlainMlpWeights, weights.get("mlp"))
        yield ReferencePart(f"{sublayer}, hidden", (f"{sublayer}, input",), hidden, mlp)
        output = _output_weights(mlp["down"], mlp.get("bdown"), weights.get("mlp_post"))
        add = partial(_add_output, layer=layer, norm=layer.mlp.post)
        yield ReferencePart(f"{sublayer}, output", (stream, f"{sublayer}, hidden"), add, output)
        stream = f"{sublayer}, output"
    if head.adaptive is not None:
        return
    last: dict[str, Any] = {"norm": materialize(stack_params.get("norm", {}))}
    if config.embedding.projection is not None:
        last["project"] = params["head"]["project"]
    own = params.get("head", {})
    last["head"] = {name: materialize(own[name]) for name in ("dense", "norm") if name in own}

    def head_input(x: Array, weights: HeadInputWeights) -> Array:
        y = normalize(x, weights.get("norm"), norm=walk.stack.final_norm)
        y = linear(y, weights["project"]) if "project" in weights else y
        return head_dense(y, weights["head"], head.dense)

    def logits(x: Array, weights: HeadWeights) -> Array:
        assert "table" in weights
        return lm_logits(x, weights["table"], weights.get("bias"), head=head)

    yield ReferencePart("head, input", (stream,), head_input, last)
    table = {"table": params["embedding" if head.tied else "head"]["table"]}
    if head.bias:
        table["bias"] = params["head"]["bias"]
    yield ReferencePart("logits", ("head, input",), logits, table)


def is_scaled(mlp: Mlp) -> bool:
    """Whether an mlp multiplies its gate or its output by a number, or leaves out or normalizes units."""
    settings = isinstance(mlp, Gated) and (mlp.gate_scale, mlp.scale, mlp.sparsity, mlp.down_norm)
    return any(one is not None for one in settings or ())


def plain_attention(layer: Layer) -> Attention | None:
    """The layer's attention, if it stands alone, has keys and values of its own, no gate and no out_norm."""
    mixer = layer.attention
    if not isinstance(mixer, Attention) or mixer.kv_layer is not None or layer.beside:
        return None
    if mixer.output_gate or mixer.head_gate or mixer.out_norm:
        return None
    return mixer


def has_plain_residual(layer: Layer) -> bool:
    """Whether the layer's sublayers follow each other, each added to its own input before any norm."""
    after = layer.attention.after or layer.mlp.after
    own = layer.scalar or layer.per_layer or layer.laurel or layer.altup
    return not (layer.parallel or layer.residual == "norm" or after or own)


def _norm_part(name: str, stream: str, weights: NormWeights | None, norm: Norm | None) -> ReferencePart:
    """The input of a sublayer: the stream after its norm."""
    return ReferencePart(name, (stream,), partial(normalize, norm=norm), weights or {})


def _output_weights(weight: Array | Blocks, bias: Array | None, post: NormWeights | None) -> OutputWeights:
    weights: OutputWeights = {"weight": weight}
    if bias is not None:
        weights["bias"] = bias
    if post is not None:
        weights["post"] = post
    return weights


def _add_output(x: Array, y: Array, weights: OutputWeights, *, layer: Layer, norm: Norm | None) -> Array:
    """The stream x after a sublayer; y is the input of the sublayer's last product."""
    y = normalize(linear(y, weights["weight"], weights.get("bias")), weights.get("post"), norm=norm)
    return x + (y if layer.scale is None else layer.scale * y)


def attention_arguments(
    x: Array, weights: HeadsWeights, layer: Layer, walk: StackWalk
) -> tuple[Array, Array, Array, KVCache, Array, Rotary | None, ScoreTerms]:
    """The arguments of `cached_attention` for a sublayer's input x, with an empty cache."""
    settings, attn = layer.attention, weights["attn"]
    assert isinstance(settings, Attention)
    positions = walk.positions(x.shape[1], weights["stack"], x.dtype)
    batch, time, _ = x.shape
    empty = layer_kind(layer, walk.config.context).empty(batch, time, x.dtype)
    cache = empty._replace(k_scale=attn.get("k_scale"), v_scale=attn.get("v_scale"))
    rotary, bias = rotary_and_bias(settings, positions, attn)
    q, k, v = project(x, attn, settings=settings)
    q, k, rotary = positioned(q, k, np.arange(time)[None], attn, rotary, settings=settings)
    past, terms = np.zeros(len(x), np.int64), ScoreTerms(bias, attn.get("sink_logits"))
    return q, k, v, cache, past, rotary, terms


def _attention_heads(x: Array, weights: HeadsWeights, *, layer: Layer, walk: StackWalk) -> Array:
    assert isinstance(layer.attention, Attention)
    y, _ = cached_attention(*attention_arguments(x, weights, layer, walk), settings=layer.attention)
    return y.reshape(*x.shape[:2], -1)


def _mlp_hidden(x: Array, weights: PlainMlpWeights | GatedMlpWeights, *, layer: Layer) -> Array:
    up = linear(x, weights["up"], weights.get("bup"))
    if isinstance(layer.mlp, Gated):
        gated = cast(GatedMlpWeights, weights)
        gate = linear(x, gated["gate"], gated.get("bgate"))
        return activation(gate, kind=layer.mlp.activation) * up
    assert isinstance(layer.mlp, Plain)
    return hidden_units(up, cast(PlainMlpWeights, weights), layer.mlp.activation)
