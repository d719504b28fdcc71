"""Write a decoder's graph with the inputs and outputs that other runtimes expect.

    input_ids [B, T]             the new tokens
    attention_mask [B, S]        1 for each real token so far, including the new tokens. So S − T columns
                                 belong to earlier tokens
    past_key_values.I.key        keys [B, G, P, K] of earlier tokens in layer I. In the first step P is 0
    past_key_values.I.value      values, in the same form
    logits                       [B, 1, N] of each row's last real token, or [B, T, N] of all tokens
    present.I.key and .value     keys and values [B, G, S, K], which are the past of the next step

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

from pathlib import Path

import onnx_ir as ir

from ...refimpl.config import Attention, Config, Decoder
from ...refimpl.engine.cache_kinds import KeysValues, cache_kinds, recurrent
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.targets import Target
from .layout import target_refusal
from .ports import Ports

KEY, VALUE = "past_key_values.%d.key", "past_key_values.%d.value"
NEW_KEY, NEW_VALUE = "present.%d.key", "present.%d.value"
PAST_AXIS, TOTAL_AXIS = "past_sequence_length", "total_sequence_length"


def refusal(config: Config, target: Target) -> str | None:
    """Return the reason why a decoder's graph can't be written with these inputs and outputs for this model
    and target. Return None if it can.
    """
    if not isinstance(config, Decoder):
        return "the model must be a decoder without an encoder"
    if reason := target_refusal(target):
        return reason
    if recurrent(cache_kinds(config)):
        return "each layer must cache keys and values, but some layers of this model cache a recurrent state"
    if config.rounds_cache:
        return "keys and values must be cached as floats, but this model quantizes them: export with kv=float"
    if any(layer.kv_layer is not None for layer in config.layers):
        return "each layer must cache its own keys and values, but some layers of this model read others'"
    if not all(type(kind) is KeysValues for kind in cache_kinds(config)):
        return "each layer must cache keys and values, but some layers of this model cache something else"
    sizes = {(a.kv_heads, a.head_size) for a in config.stack.attentions}
    if len(sizes) > 1:
        return f"all layers must have the same heads, got (kv_heads, head_size) of {sorted(sizes)}"
    return None


def attention(config: Config) -> Attention:
    """Return the settings of a decoder's attention in its first layer. All layers have the same number and
    size of heads, because `refusal` refuses other models.
    """
    return config.stacks["decoder"].attentions[0]


def write(bundle: Bundle, path: Path, *, data: str, every_position: bool) -> None:
    """Write the graph to `path`, and its weights to a file `data` beside it.

    With `every_position`, the graph outputs logits at all positions. Otherwise, it outputs only the logits of
    each row's last token.
    """
    ports = Ports(bundle)
    ids, total = _replace_inputs(ports, every_position=every_position)
    if bundle.cache == "copied":
        _make_room(ports, ids, bundle.config)
        ports.replace_tables(total)  # a graph may take the cache's size from any input that has it
    else:
        ports.replace_tables()
    _rename(ports.graph, len(bundle.config.layers), every_position=every_position)
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
    # A row of padding alone has no logits; it gets any.
    ports.replace("at", op("Max", op("Sub", count, one), zero))
    for name in ports.old:
        if name.startswith("window_length."):
            ports.replace(name, past)  # the cache keeps every token
    return ids, total


def _make_room(ports: Ports, ids: ir.Value, config: Config) -> None:
    """Replace each input for a cache by a larger cache, which has room for the new tokens."""
    sizes = attention(config)
    shape = "batch", sizes.kv_heads, PAST_AXIS, sizes.head_size
    for i in range(len(config.layers)):
        for old, new in ((f"k.{i}", KEY), (f"v.{i}", VALUE)):
            dtype = ports.old[old].dtype
            assert dtype is not None
            ports.replace(old, ports.grown(ports.input(new % i, *shape, dtype=dtype), ids))


def _rename(graph: ir.Graph, layers: int, *, every_position: bool) -> None:
    """Give the cache's inputs and outputs the names and axes that other runtimes expect."""
    values = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    for i in range(layers):
        for old, new in (("k", KEY), ("v", VALUE), ("k_out", NEW_KEY), ("v_out", NEW_VALUE)):
            if (array := values.get(f"{old}.{i}")) is None:
                continue  # `_make_room` has named it
            array.name = new % i
            assert array.shape is not None
            axis = TOTAL_AXIS if old.endswith("_out") else PAST_AXIS
            array.shape = ir.Shape([array.shape[0], array.shape[1], axis, array.shape[3]])
    logits = values["logits"]
    assert logits.shape is not None
    logits.shape = ir.Shape([logits.shape[0], "time" if every_position else 1, logits.shape[2]])
