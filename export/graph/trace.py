"""Module and target -> ONNX graph, traced without weights.

The numbers are in `model.onnx.data` already when this runs: the graph is traced with fake tensors
of the stored shapes, and each initializer then points into that file. The exporter never sees a
weight, so a model of any size costs the memory of its graph.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir import convenience
from onnx_ir.passes import common as passes
from torch._subclasses.fake_tensor import FakeTensorMode

from ...refimpl.config import Config
from ...refimpl.errors import ExportError
from ...refimpl.params import shapes as trees
from ...runtime.bundle.graph_io import Graph
from ...runtime.bundle.weight_layout import Group
from ..dispatch import exporting
from ..targets.packed_weights import Blocked, NBits, RowQuantized, Static
from ..targets.target import Target
from .module import Part

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "uint4": torch.uint8,
    "int4": torch.int8,
}


def build(
    config: Config,
    graph: Graph,
    tensors: Mapping[str, Any],
    groups: Mapping[str, Group],
    target: Target,
    *,
    data: Path,
    dtype: str = "float32",
    opset: int | None = None,
) -> ir.Model:
    """One graph of the model over the tensors in `data`.

    Raises ExportError when the exporter changed what was promised: a dynamic axis that became a
    constant, an initializer that is missing or was copied into the graph.
    """
    owned = {name: group for name, group in groups.items() if graph.owns(name)}
    own = {name: entry for name, entry in tensors.items() if graph.owns(name)}
    with FakeTensorMode():
        fakes = {
            name: torch.empty(tuple(entry.shape), dtype=DTYPES[entry.dtype]) for name, entry in own.items()
        }
        tree = trees.unflatten({name: _leaf(group, fakes) for name, group in owned.items()})
        module = Part(config, graph, tree).eval()
        with exporting(target.emits(config).table), warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                _inputs(graph, DTYPES[dtype]),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset or target.opset,
                input_names=[port.name for port in graph.inputs],
                output_names=[port.name for port in graph.outputs],
                dynamic_shapes=(_dynamic(graph),),
            )
    if program is None:
        raise ExportError("the exporter gave no program")
    model = program.model
    weights = _weights(model, own, data)
    # The optimizer doesn't see the weights: it would copy what it folds into the graph, and make one
    # of two small ones that are equal, such as norms of ones.
    with quiet():
        onnxscript.optimizer.optimize_ir(
            model,
            should_fold=lambda node: False if any(v and v.name in own for v in node.inputs) else None,
        )
        passes.CommonSubexpressionEliminationPass()(model)
    _sum(model)
    _strip(model)
    _check(model, graph, own)
    for name, tensor in weights.items():
        model.graph.initializers[name].const_value = tensor
    return model


def _leaf(group: Group, fakes: Mapping[str, torch.Tensor]) -> Any:
    """The leaf that stands for a group of stored tensors."""
    scheme = group.scheme
    if scheme is None:
        return fakes[group.name]

    def field(name: str) -> Any:
        return fakes.get(f"{group.name}.{name}")

    if group.kind == "row":
        return RowQuantized(field("codes"), field("scale"), field("input_factor"))
    if group.kind == "static":
        return Static(field("codes"), field("scale"), field("input_scale"), field("input_zero"))
    zero, minimum = field("zero"), field("minimum")
    if group.kind == "nbits":
        packed, scale = field("packed"), field("scale")
        return NBits(packed, scale, zero, minimum, scheme.bits, scheme.block, group.length)
    return Blocked(field("codes"), field("scale"), zero, minimum, scheme.bits, scheme.block)


# Sizes for tracing: at least two and all different; those of caches with a window follow.
SIZES = {"batch": 2, "time": 3, "wanted": 5, "capacity": 7, "text": 11}


def _inputs(graph: Graph, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Arguments of `Part.forward` for tracing."""
    sizes = _sizes(graph)
    return tuple(
        torch.zeros(
            [sizes[a] if isinstance(a, str) else a for a in port.axes],
            dtype=DTYPES[port.dtype] if port.dtype else dtype,
        )
        for port in graph.inputs
    )


def _sizes(graph: Graph) -> dict[str, int]:
    rows = dict.fromkeys(a for port in graph.inputs for a in port.axes if isinstance(a, str))
    return SIZES | {axis: 13 + i for i, axis in enumerate(axis for axis in rows if axis not in SIZES)}


def _dynamic(graph: Graph) -> tuple[dict[int, Any], ...]:
    dim = {name: torch.export.Dim(name) for name in _sizes(graph)}
    return tuple({i: dim[a] for i, a in enumerate(port.axes) if isinstance(a, str)} for port in graph.inputs)


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter logs what it registers, the optimizer what it skips; none of it is news to the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _weights(model: ir.Model, tensors: Mapping[str, Any], data: Path) -> dict[str, ir.ExternalTensor]:
    """Name the initializers as they are stored, still without values; where these lie in the data file."""
    held, found = model.graph.initializers, {}
    for name, value in list(held.items()):
        stored = name.removeprefix("leaves.")
        if stored not in tensors:
            if value.const_value is None:
                raise ExportError(f"the graph holds a weight that isn't stored: {name}")
            continue
        entry = tensors[stored]
        value.name, value.const_value = stored, None
        found[stored] = ir.ExternalTensor(
            data.name,
            entry.offset,
            entry.length,
            ir.DataType[entry.dtype.upper().replace("FLOAT32", "FLOAT")],
            shape=ir.Shape(entry.shape),
            name=stored,
            base_dir=data.parent,
        )
    if missing := sorted(set(tensors) - set(held)):
        raise ExportError(f"stored weights that the graph doesn't use: {', '.join(missing[:5])}")
    return found


def _sum(model: ir.Model) -> None:
    """One sum of three where a product is two: a small step of ONNX Runtime costs more than its numbers."""
    for inner in list(model.graph):
        made = [value.producer() for value in inner.inputs if value is not None]
        kinds, used = {node.op_type for node in made if node is not None}, list(inner.outputs[0].uses())
        if inner.op_type != "Add" or kinds != {"MatMul", "MatMulNBits"} or len(used) != 1:
            continue
        node, at = used[0]
        if node.op_type == "Add":
            new = ir.node("Sum", [node.inputs[1 - at], *inner.inputs], name=node.name)
            values = [node.outputs[0]], [new.outputs[0]]
            convenience.replace_nodes_and_values(model.graph, node, [node, inner], [new], *values)


def _strip(model: ir.Model) -> None:
    """Drop the exporter's notes: they name source lines, and a bundle's bytes may not."""
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    model.producer_name, model.producer_version = "tfm", None


def _check(model: ir.Model, graph: Graph, tensors: Mapping[str, Any]) -> None:
    got = {v.name: [str(d) for d in v.shape or ()] for v in model.graph.inputs}
    for port in graph.inputs:
        axes = [str(a) for a in port.axes]
        if got.get(port.name) != axes:
            raise ExportError(f"graph input {port.name} must be {axes}, got {got.get(port.name)}")
    if lost := sorted(set(tensors) - set(model.graph.initializers)):
        raise ExportError(f"the optimizer removed stored weights: {', '.join(lost[:5])}")
