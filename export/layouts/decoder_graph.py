"""A decoder's graph with the inputs and outputs that other runtimes expect.

    input_ids [B, T]        the new tokens; `attention_mask` [B, S] has a 1 for each real token so far, these
                            included, so there were S − T columns before them
    past_key_values.I.key   a layer's keys [B, G, P, K] of what came before, and .value; first [B, G, 0, K]
    logits                  [B, 1, N] of each row's last real token, or [B, T, N] of all
    present.I.key           keys [B, G, S, K], and .value: the next step's past

The rotary tables, which a bundle's graph takes as inputs, become weights, for the model's whole context.

**Conventions**: a row may be padded on either side, or between. Its real tokens are moved to its front, in
their order, so that its cache holds them without gaps, and `past` counts the 1s before the new tokens:

    input_ids       p p a b      attention_mask  0 0 1 1      tokens  a b p p    past 0
    next step       c                            0 0 1 1 1    tokens  c          past 2

GroupQueryAttention takes several new tokens after a past of one row alone: ONNX Runtime refuses more.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from ...refimpl.config import Attention, Config, Decoder
from ...refimpl.ops.model import position_tables
from ...runtime.bundle import operator_limits
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.graph_io import GRAPH
from ...runtime.bundle.manifest import DATA
from ...runtime.bundle.targets import Target
from ..graph import passes
from . import data_file

KEY, VALUE = "past_key_values.%d.key", "past_key_values.%d.value"
NEW_KEY, NEW_VALUE = "present.%d.key", "present.%d.value"
AXES = {"batch": "batch_size", "time": "sequence_length"}
PAST_AXIS, TOTAL_AXIS = "past_sequence_length", "total_sequence_length"


def refusal(config: Config, target: Target) -> str | None:
    """The reason why a model's graph can't have these ports; None where it can."""
    if not isinstance(config, Decoder):
        return "the model isn't a decoder alone, which is all that these files are made for"
    if target.name != "ort-cpu":
        return f"it is made of bundles for ort-cpu, this one is for {target.name}: export for target=ort-cpu"
    if reasons := operator_limits.group_query(config):
        return f"its cache must grow as it is read, which takes {reasons[0]}"
    if config.rounds_cache:
        return "its cache must hold floats, this one holds 8-bit codes: export with kv=float"
    sizes = {(a.kv_heads, a.head_size) for a in config.stack.attentions}
    if len(sizes) > 1:
        return f"all layers must have the same heads, got (kv_heads, head_size) of {sorted(sizes)}"
    return None


def attention(config: Config) -> Attention:
    """The attention whose heads all layers have; `refusal` lets no others through."""
    return config.stacks["decoder"].attentions[0]


def write(bundle: Bundle, path: Path, *, data: str, every_position: bool) -> None:
    """Write the graph to `path`, and its weights to `data` beside it.

    `every_position` asks for logits at all positions, where otherwise each row has those of its last token.
    """
    model = ir.load(bundle.path / GRAPH)
    inputs = {str(value.name): value for value in model.graph.inputs}
    tables = _rotary_tables(bundle, inputs)
    weights = path.parent / data
    data_file.copy(bundle.path / DATA, weights)
    places = data_file.append(weights, tables)
    _replace_inputs(model.graph, inputs, every_position=every_position)
    for name, place in places.items():
        table = inputs[name]
        model.graph.inputs.remove(table)
        table.shape = ir.Shape(place.shape)
        model.graph.initializers[name] = table
    _rename(model.graph, len(bundle.config.layers), every_position=every_position)
    passes.point_weights(model, {**bundle.manifest.tensors, **places}, weights)
    ir.save(model, path)


def _rotary_tables(bundle: Bundle, inputs: Mapping[str, ir.Value]) -> dict[str, np.ndarray]:
    """Cosines and sines of all positions of the context, by the inputs that take them."""
    config = bundle.config
    tables = position_tables(np.arange(config.context), config=config)
    return {
        f"{side}.{i}": np.ascontiguousarray(table, np.dtype(bundle.dtype))
        for i, rope in enumerate(config.ropes)
        for side, table in zip(("cos", "sin"), tables[rope], strict=True)
        if f"{side}.{i}" in inputs
    }


def _replace_inputs(graph: ir.Graph, inputs: Mapping[str, ir.Value], *, every_position: bool) -> None:
    """Compute tokens, `past` and `at` from `input_ids` and `attention_mask`, which take their places."""
    tape = Tape()
    op, op_multi_out = tape.op, tape.op_multi_out
    zero, one, first, next_ = (
        tape.initializer(ir.tensor(np.array(value, np.int64)), f"ports.{name}")
        for name, value in (("zero", 0), ("one", 1), ("axis_0", [0]), ("axis_1", [1]))
    )
    ids, mask = (
        ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch", axis]))
        for name, axis in (("input_ids", "time"), ("attention_mask", TOTAL_AXIS))
    )
    time, total = (op("Shape", [value], {"start": 1, "end": 2}) for value in (ids, mask))
    before = op("Sub", [total, time])
    past = op("ReduceSum", [op("Slice", [mask, first, before, next_]), next_], {"keepdims": 0})
    is_real = op("Slice", [mask, before, total, next_])
    # Real tokens have the keys T − i, from T down to 1, and padding −i: the largest come first.
    places = op("Range", [zero, op("Squeeze", [time, first]), one])
    keys = op("Sub", [op("Mul", [is_real, time]), places])
    _, order = op_multi_out("TopK", [keys, time], {"axis": 1}, num_outputs=2)
    tokens = op("GatherElements", [ids, order], {"axis": 1})
    if every_position:
        count = op("CumSum", [is_real, one])
    else:
        count = op("ReduceSum", [is_real, next_], {"keepdims": 1})
    at = op("Max", [op("Sub", [count, one]), zero])  # a row of padding alone has no logits; these are any

    replaced = {"tokens": tokens, "past": past, "at": at}
    replaced |= {name: past for name in inputs if name.startswith("window_length.")}  # no token is dropped
    for name, value in replaced.items():
        inputs[name].replace_all_uses_with(value)
        graph.inputs.remove(inputs[name])
    graph.inputs[:0] = [ids, mask]
    for value in tape.initializers:
        graph.register_initializer(value)
    for i, node in enumerate(tape.nodes):
        node.name = f"ports.{i}"
        for output in node.outputs:
            output.name = f"ports.{i}.{output.index()}"
    graph.insert_before(graph[0], tape.nodes)


def _rename(graph: ir.Graph, layers: int, *, every_position: bool) -> None:
    """Give the cache's arrays and all axes the names that runtimes look for."""
    values = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    for i in range(layers):
        for old, new in (("k", KEY), ("v", VALUE), ("k_out", NEW_KEY), ("v_out", NEW_VALUE)):
            array = values[f"{old}.{i}"]
            array.name = new % i
            assert array.shape is not None
            axis = TOTAL_AXIS if old.endswith("_out") else PAST_AXIS
            array.shape = ir.Shape([array.shape[0], array.shape[1], axis, array.shape[3]])
    logits = values["logits"]
    assert logits.shape is not None
    logits.shape = ir.Shape([logits.shape[0], "time" if every_position else 1, logits.shape[2]])
    for value in (*graph.inputs, *graph.outputs, *(out for node in graph for out in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([AXES.get(str(axis), axis) for axis in value.shape])
