"""A decoder's forward pass in pieces, as the specification states it: the parts that graphs are cut into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...refimpl.config import LM, Config, Gated, Layer, MoE, Norm
from ...refimpl.ops.activation import activation
from ...refimpl.ops.attention import cached_attention, project
from ...refimpl.ops.block import Positions, normalize, rotary_and_bias
from ...refimpl.ops.cache import KVCache
from ...refimpl.ops.linear import linear
from ...refimpl.ops.model import embed, lm_logits, position_tables, score_biases
from ...refimpl.ops.position import Rotary
from ...refimpl.params.tree import flatten, unflatten

Array = np.ndarray


@dataclass(frozen=True)
class ReferencePart:
    """A part as the specification states it: its output's name, its inputs' names, and the function."""

    name: str
    inputs: tuple[str, ...]
    compute: Callable[..., Array]
    tree: Any


def pieces_of(config: Config, params: Any, tokens: Array) -> Iterator[ReferencePart]:
    """The pieces on the tokens [B, T], in order, as far as the streams between them are told apart."""
    stack, decoder = config.stacks["decoder"], params["decoder"]
    lm = config.head
    assert isinstance(lm, LM)
    added = {part: decoder[part] for part in ("positions", "relative_bias") if part in decoder}
    first = {"first_norm": dict(flatten(decoder["first_norm"]))} if "first_norm" in decoder else {}

    def embedded(tree: Any) -> Array:
        at = np.arange(tokens.shape[1])[None]
        return embed(tokens, at, tree["own"], tree["stack"], config=config.embedding, stack=stack)

    own = dict(flatten(params["embedding"]))
    yield ReferencePart("embedding", (), embedded, {"own": own, "stack": {**added, **first}})
    stream = "embedding"
    for i, layer in enumerate(config.layers):
        tree = unflatten(dict(flatten(decoder["layers"][i])))
        attn, mlp, at = tree["attn"] | added, tree["mlp"], f"layer {i}, "
        a, heads, h = f"{at}attention, input", f"{at}attention, heads", f"{at}attention, output"
        norm = lambda x, t, norm: normalize(x, t, norm=norm)  # noqa: E731
        yield ReferencePart(a, (stream,), _with(norm, norm=layer.attention.pre), tree.get("attn_pre"))
        yield ReferencePart(heads, (a,), _with(_heads, layer=layer, config=config), attn)
        if not followed(layer):
            return
        out = {"w": attn["wo"], "b": attn.get("bo"), "post": tree.get("attn_post", {})}
        yield ReferencePart(h, (stream, heads), _with(_added, layer=layer, norm=layer.attention.post), out)
        if isinstance(layer.mlp, MoE):
            return  # which expert a vector goes to is decided inside: no one value is a mixture's hidden one
        m, hidden, y = f"{at}mlp, input", f"{at}mlp, hidden", f"{at}mlp, output"
        yield ReferencePart(m, (h,), _with(norm, norm=layer.mlp.pre), tree.get("mlp_pre"))
        yield ReferencePart(hidden, (m,), _with(_hidden, layer=layer), mlp)
        out = {"w": mlp["down"], "b": mlp.get("bdown"), "post": tree.get("mlp_post", {})}
        yield ReferencePart(y, (h, hidden), _with(_added, layer=layer, norm=layer.mlp.post), out)
        stream = y
    last = {"norm": dict(flatten(decoder.get("norm", {})))}
    last |= {} if config.embedding.projection is None else {"project": params["head"]["project"]}

    def leaving(x: Array, tree: Any) -> Array:
        y = normalize(x, tree["norm"], norm=stack.final_norm)
        return linear(y, tree["project"]) if "project" in tree else y

    yield ReferencePart("head, input", (stream,), leaving, last)
    tree = {"table": params["embedding" if lm.tied else "head"]["table"]}
    if lm.bias:
        tree["bias"] = params["head"]["bias"]
    head = lambda x, t: lm_logits(x, t["table"], t.get("bias"), head=lm)  # noqa: E731
    yield ReferencePart("logits", ("head, input",), head, tree)


def _with(function: Callable[..., Array], **settings: Any) -> Callable[..., Array]:
    return lambda *args: function(*args, **settings)


def followed(layer: Layer) -> bool:
    """Whether a layer's streams are told apart: one sublayer after the other, added to its own input."""
    return not (layer.parallel or layer.residual == "norm" or layer.attention.after or layer.mlp.after)


def _added(x: Array, y: Array, tree: Any, *, layer: Layer, norm: Norm | None) -> Array:
    """The stream after a sublayer, of whose last product y is the input."""
    y = normalize(linear(y, tree["w"], tree["b"]), tree["post"], norm=norm)
    return x + (y if layer.scale is None else layer.scale * y)


def attention_inputs(x: Array, tree: Any, layer: Layer, config: Config) -> list[Any]:
    """What cached attention takes: queries, keys and values of x, an empty cache, its lengths, positions."""
    a, (b, t, *_) = layer.attention, x.shape
    empty = np.zeros((b, a.kv_heads, t, a.head_size), x.dtype)
    at, stack = np.arange(t), config.stacks["decoder"]
    rotary = {
        rope: Rotary(cos.astype(x.dtype), sin.astype(x.dtype))
        for rope, (cos, sin) in position_tables(at, config=config).items()
    }
    biases = score_biases(np.tile(at, (b, 1)), at, tree, x.dtype, stack=stack, bidirectional=False)
    cache = KVCache(empty, empty, tree.get("k_scale"), tree.get("v_scale"))
    q, k, v = project(x, tree, settings=a)
    return [q, k, v, cache, np.zeros(b, np.int64), *rotary_and_bias(a, Positions(rotary, biases))]


def _heads(x: Array, tree: Any, *, layer: Layer, config: Config) -> Array:
    y, _ = cached_attention(*attention_inputs(x, tree, layer, config), settings=layer.attention)
    return y.reshape(*x.shape[:2], -1)


def _hidden(x: Array, tree: Any, *, layer: Layer) -> Array:
    up = linear(x, tree["up"], tree.get("bup"))
    if isinstance(layer.mlp, Gated):
        gate = linear(x, tree["gate"], tree.get("bgate"))
        return activation(gate, kind=layer.mlp.activation) * up
    return activation(up, kind=layer.mlp.activation)
