"""Write a decoder's graph with the inputs and outputs that other runtimes expect.

    input_ids [B, T]             the new tokens
    attention_mask [B, S]        1 for each real token so far, including the new tokens. So S − T columns
                                 belong to earlier tokens
    past_key_values.I.key        keys [B, G, P, K] of earlier tokens in layer I. In the first step P is 0
    past_key_values.I.value      values, in the same form
    logits                       [B, 1, N] of each row's last real token, or [B, T, N] of all tokens
    present.I.key and .value     keys and values [B, G, S, K], which are the past of the next step

A layer that reads another layer's keys and values has no such inputs and outputs. A layer with latent
attention has them with one head: its latent, and its key for an indexer if it has one, are one vector, of
which `key` is the first half and `value` the second half. The states of a recurrent layer are inputs and
outputs too. Each runtime has its own names for states.

In a bundle's graph, the rotary tables are inputs. This module makes them weights, for the model's whole
context.

**Conventions**: a row may have padding on either side, or between its tokens. The real tokens are moved to
the front of the row, in their order, so that the row's cache contains them without gaps. `past` counts the 1s
before the new tokens:

    input_ids       p p a b      attention_mask  0 0 1 1      tokens  a b p p    past 0
    next step       c                            0 0 1 1 1    tokens  c          past 2

If the bundle's graph copies the cache, the cache gets room for the new tokens before they are written into
it. GroupQueryAttention makes room itself. If the cache isn't empty, GroupQueryAttention takes several new
tokens only for a batch of one row. ONNX Runtime refuses more rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from ...refimpl.config import Config, Decoder
from ...refimpl.engine.cache_kinds import CacheArray, CacheKind, cache_kinds
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.targets import Target
from .layout import target_refusal
from .ports import Ports

KEY, VALUE = "past_key_values.%d.key", "past_key_values.%d.value"
NEW_KEY, NEW_VALUE = "present.%d.key", "present.%d.value"
PAST_AXIS, TOTAL_AXIS = "past_sequence_length", "total_sequence_length"
# For each state that a layer may have, the names of its input and of its output.
StateNames = Sequence[tuple[str, str]]


def refusal(config: Config, target: Target, states: StateNames = ()) -> str | None:
    """Return the reason why a decoder's graph can't be written with these inputs and outputs for this model
    and target. Return None if it can. `states` are the names that the runtime has for states.
    """
    if not isinstance(config, Decoder):
        return "the model must be a decoder without an encoder"
    if reason := target_refusal(target):
        return reason
    if config.rounds_cache:
        return "keys and values must be cached as floats, but this model quantizes them: export with kv=float"
    for i, kind in enumerate(cache_kinds(config)):
        by_token, kept = arrays(kind)
        if len(kept) > len(states):
            inputs = " and ".join(past % i for past, _ in states) or "no input"
            names = ", ".join(array.name for array in kept)
            return f"the runtime has {inputs} for the states of layer {i}, which caches {names}"
        if [array.name for array in by_token] == ["k", "v", "index"]:
            return f"the runtime has inputs for keys and values, but layer {i} also caches an indexer's keys"
        if sum(_size(array) for array in by_token) % 2 and by_token[0].name == "latent":
            return f"a latent of layer {i} must have an even number of floats, so that it has two halves"
    return None


def arrays(kind: CacheKind) -> tuple[list[CacheArray], list[CacheArray]]:
    """Return the arrays of a layer's cache that have an entry for each token, and the layer's states."""
    by_token = [array for array in kind.arrays if kind.tokens_axis in array.axes]
    return by_token, [array for array in kind.arrays if array not in by_token]


def heads_of_layers(config: Config) -> dict[int, tuple[int, int]]:
    """Return the number and size of the heads of the keys of each layer that has inputs for keys."""
    heads = {}
    for i, kind in enumerate(cache_kinds(config)):
        by_token, _ = arrays(kind)
        if by_token and by_token[0].name == "latent":
            heads[i] = 1, sum(map(_size, by_token)) // 2
        elif by_token:
            count = by_token[0].axes[1]
            assert isinstance(count, int)
            heads[i] = count, _size(by_token[0])
    return heads


def one_size(config: Config) -> str | None:
    """Return the reason why a runtime that has one size for the keys of all layers can't run a model. Return
    None if it can.
    """
    sizes = sorted(set(heads_of_layers(config).values()))
    if len(sizes) > 1:
        return f"all layers must have the same heads, got (kv_heads, head_size) of {sizes}"
    return None


def heads(config: Config) -> tuple[int, int, int]:
    """Return the number of heads of the queries and of the keys, and their size, in the first layer that has
    keys. A model without keys has one head of its width.
    """
    kv_heads, size = next(iter(heads_of_layers(config).values()), (1, config.embedding.width))
    softmaxes = (layer.attention.softmax_attention for layer in config.layers)
    return next((one.heads for one in softmaxes if one is not None), kv_heads), kv_heads, size


def _size(array: CacheArray) -> int:
    """Return how many numbers an array of a cache has for each token and head."""
    size = array.axes[-1]
    assert isinstance(size, int)
    return size


def write(bundle: Bundle, path: Path, *, data: str, every_position: bool, states: StateNames = ()) -> None:
    """Write the graph to `path`, and its weights to a file `data` beside it.

    With `every_position`, the graph outputs logits at all positions. Otherwise, it outputs only the logits of
    each row's last token. `states` are the names of the states.
    """
    ports = Ports(bundle)
    ids, total = _replace_inputs(ports, every_position=every_position)
    if bundle.cache == "copied":
        _make_room(ports, ids, bundle.config)
        ports.replace_tables(total)  # a graph may take the cache's size from any input that has it
    else:
        ports.replace_tables()
    _rename(ports.graph, cache_kinds(bundle.config), states, every_position=every_position)
    ports.save(path, data)


def _replace_inputs(ports: Ports, *, every_position: bool) -> tuple[ir.Value, ir.Value]:
    """Replace the graph's inputs tokens, `past` and `at` by values that are computed from `input_ids` and
    `attention_mask`.

    Returns `input_ids`, and the number of columns of the mask.
    """
    op, zero, one, axis = ports.op, ports.constant(0), ports.constant(1), ports.constant([1])
    ids, mask = ports.input("input_ids", "batch", "time"), ports.input("attention_mask", "batch", TOTAL_AXIS)
    time, total = ports.length(ids), ports.length(mask)
    before = op("Sub", total, time)
    past = op("ReduceSum", op("Slice", mask, ports.constant([0]), before, axis), axis, keepdims=0)
    is_real = op("Slice", mask, before, total, axis)
    if every_position:
        count = op("CumSum", is_real, one)
    else:
        count = op("ReduceSum", is_real, axis, keepdims=1)
    ports.replace("tokens", op("GatherElements", ids, ports.order(is_real, time), axis=1))
    ports.replace("past", past)
    ports.replace("lengths", op("ReduceSum", is_real, axis, keepdims=0))
    # A row of padding alone has no logits; it gets any.
    ports.replace("at", op("Max", op("Sub", count, one), zero))
    for name in ports.old:
        if name.startswith("window_length."):
            ports.replace(name, past)  # the cache keeps every token
    return ids, total


def _make_room(ports: Ports, ids: ir.Value, config: Config) -> None:
    """Replace each input for keys, values or latents by a larger one, which has room for the new tokens."""
    kinds = cache_kinds(config)
    for i, (kv_heads, size) in heads_of_layers(config).items():
        by_token, _ = arrays(kinds[i])
        dtype = ports.old[f"{by_token[0].name}.{i}"].dtype
        assert dtype is not None
        axes = "batch", kv_heads, PAST_AXIS, size
        grown: Sequence[ir.Value] = [
            ports.grown(ports.input(name % i, *axes, dtype=dtype), ids) for name in (KEY, VALUE)
        ]
        if by_token[0].name == "latent":
            grown = ports.split(ports.op("Concat", *grown, axis=3), [_size(array) for array in by_token])
            _halve(ports, i, by_token)
        for array, value in zip(by_token, grown, strict=True):
            ports.replace(f"{array.name}.{i}", value)


def _halve(ports: Ports, layer: int, by_token: Sequence[CacheArray]) -> None:
    """Replace the outputs of a layer's latent attention by their two halves."""
    outputs, names = ports.graph.outputs, {f"{array.name}_out.{layer}" for array in by_token}
    first, *more = (value for value in outputs if value.name in names)
    size, at = sum(map(_size, by_token)) // 2, outputs.index(first)
    halves = ports.split(ports.op("Concat", first, *more, axis=3), [size, size])
    for half, name in zip(halves, (NEW_KEY, NEW_VALUE), strict=True):
        half.name, half.type = name % layer, first.type
        half.shape = ir.Shape(["batch", 1, TOTAL_AXIS, size])
    outputs[at : at + 1 + len(more)] = halves


def _rename(graph: ir.Graph, kinds: Sequence[CacheKind], states: StateNames, *, every_position: bool) -> None:
    """Give the cache's inputs and outputs the names and axes that other runtimes expect."""
    values = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    for i, kind in enumerate(kinds):
        for old, new in (("k", KEY), ("v", VALUE), ("k_out", NEW_KEY), ("v_out", NEW_VALUE)):
            if (array := values.get(f"{old}.{i}")) is None:
                continue  # the layer has none, or `_make_room` has named it
            array.name = new % i
            assert array.shape is not None
            axis = TOTAL_AXIS if old.endswith("_out") else PAST_AXIS
            array.shape = ir.Shape([array.shape[0], array.shape[1], axis, array.shape[3]])
        for state, (past, present) in zip(arrays(kind)[1], states, strict=False):
            values[f"{state.name}.{i}"].name = past % i
            values[f"{state.name}_out.{i}"].name = present % i
    logits = values["logits"]
    assert logits.shape is not None
    logits.shape = ir.Shape([logits.shape[0], "time" if every_position else 1, logits.shape[2]])
