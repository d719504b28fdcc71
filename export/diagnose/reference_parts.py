"""A decoder's forward pass in parts, as the specification states it: a graph is cut into the same parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...refimpl.config import LM, Config, Gated, Layer, MoE, Norm
from ...refimpl.engine.cache_kinds import layer_kind
from ...refimpl.engine.stack_walk import StackWalk
from ...refimpl.ops.activation import activation
from ...refimpl.ops.attention import cached_attention, project
from ...refimpl.ops.block import normalize, rotary_and_bias
from ...refimpl.ops.linear import linear
from ...refimpl.ops.model import lm_logits
from ...refimpl.params.tree import flatten, unflatten

Array = np.ndarray


@dataclass(frozen=True)
class ReferencePart:
    """A part as the specification states it: output = compute(*inputs, weights).

    It has the name of its output; `inputs` are the names of other parts.
    """

    name: str
    inputs: tuple[str, ...]
    compute: Callable[..., Array]
    weights: Any


def reference_parts(config: Config, params: Any, tokens: Array) -> Iterator[ReferencePart]:
    """The parts on the tokens [B, T], in order, up to the first layer without a plain residual stream.

    A mixture of experts ends them too: it has no single hidden value.
    """
    walk = StackWalk(config, "decoder")
    stack_params, head = params["decoder"], config.head
    assert isinstance(head, LM)
    entry = {name: stack_params[name] for name in ("positions", "relative_bias") if name in stack_params}
    first_norm = {}
    if "first_norm" in stack_params:
        first_norm = {"first_norm": dict(flatten(stack_params["first_norm"]))}

    def embed(weights: Any) -> Array:
        return walk.enter(tokens, weights["embedding"], weights["stack"])

    embedding = {"embedding": dict(flatten(params["embedding"])), "stack": {**entry, **first_norm}}
    yield ReferencePart("embedding", (), embed, embedding)
    stream = "embedding"
    for i, layer in enumerate(config.layers):
        weights = unflatten(dict(flatten(stack_params["layers"][i])))
        sublayer = f"layer {i}, attention"
        yield _norm_part(f"{sublayer}, input", stream, weights.get("attn_pre"), layer.attention.pre)
        heads = partial(_attention_heads, layer=layer, walk=walk)
        yield ReferencePart(f"{sublayer}, heads", (f"{sublayer}, input",), heads, weights["attn"] | entry)
        if not has_plain_residual(layer):
            return
        attn, post = weights["attn"], weights.get("attn_post", {})
        output = {"weight": attn["wo"], "bias": attn.get("bo"), "post": post}
        add = partial(_add_output, layer=layer, norm=layer.attention.post)
        yield ReferencePart(f"{sublayer}, output", (stream, f"{sublayer}, heads"), add, output)
        stream = f"{sublayer}, output"
        if isinstance(layer.mlp, MoE):
            return
        sublayer = f"layer {i}, mlp"
        yield _norm_part(f"{sublayer}, input", stream, weights.get("mlp_pre"), layer.mlp.pre)
        hidden = partial(_mlp_hidden, layer=layer)
        yield ReferencePart(f"{sublayer}, hidden", (f"{sublayer}, input",), hidden, weights["mlp"])
        mlp, post = weights["mlp"], weights.get("mlp_post", {})
        output = {"weight": mlp["down"], "bias": mlp.get("bdown"), "post": post}
        add = partial(_add_output, layer=layer, norm=layer.mlp.post)
        yield ReferencePart(f"{sublayer}, output", (stream, f"{sublayer}, hidden"), add, output)
        stream = f"{sublayer}, output"
    last = {"norm": dict(flatten(stack_params.get("norm", {})))}
    if config.embedding.projection is not None:
        last["project"] = params["head"]["project"]

    def head_input(x: Array, weights: Any) -> Array:
        y = walk.leave(x, weights["norm"])
        return linear(y, weights["project"]) if "project" in weights else y

    def logits(x: Array, weights: Any) -> Array:
        return lm_logits(x, weights["table"], weights.get("bias"), head=head)

    yield ReferencePart("head, input", (stream,), head_input, last)
    table = {"table": params["embedding" if head.tied else "head"]["table"]}
    if head.bias:
        table["bias"] = params["head"]["bias"]
    yield ReferencePart("logits", ("head, input",), logits, table)


def has_plain_residual(layer: Layer) -> bool:
    """Whether the layer's sublayers follow each other, each added to its own input before any norm."""
    return not (layer.parallel or layer.residual == "norm" or layer.attention.after or layer.mlp.after)


def _norm_part(name: str, stream: str, weights: Any, norm: Norm | None) -> ReferencePart:
    """The input of a sublayer: the stream after its norm."""
    return ReferencePart(name, (stream,), partial(normalize, norm=norm), weights)


def _add_output(x: Array, y: Array, weights: Any, *, layer: Layer, norm: Norm | None) -> Array:
    """The stream x after a sublayer; y is the input of the sublayer's last product."""
    y = normalize(linear(y, weights["weight"], weights["bias"]), weights["post"], norm=norm)
    return x + (y if layer.scale is None else layer.scale * y)


def attention_arguments(x: Array, weights: Any, layer: Layer, walk: StackWalk) -> list[Any]:
    """The arguments of `cached_attention` for a sublayer's input x, with an empty cache."""
    settings = layer.attention
    positions = walk.positions(x.shape[1], weights, x.dtype)
    batch, time, _ = x.shape
    empty = layer_kind(layer, walk.config.context).empty(batch, time, x.dtype)
    cache = empty._replace(k_scale=weights.get("k_scale"), v_scale=weights.get("v_scale"))
    q, k, v = project(x, weights, settings=settings)
    past = np.zeros(len(x), np.int64)
    return [q, k, v, cache, past, *rotary_and_bias(settings, positions)]


def _attention_heads(x: Array, weights: Any, *, layer: Layer, walk: StackWalk) -> Array:
    y, _ = cached_attention(*attention_arguments(x, weights, layer, walk), settings=layer.attention)
    return y.reshape(*x.shape[:2], -1)


def _mlp_hidden(x: Array, weights: Any, *, layer: Layer) -> Array:
    up = linear(x, weights["up"], weights.get("bup"))
    if isinstance(layer.mlp, Gated):
        gate = linear(x, weights["gate"], weights.get("bgate"))
        return activation(gate, kind=layer.mlp.activation) * up
    return activation(up, kind=layer.mlp.activation)
