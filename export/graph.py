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
from onnx_ir.passes import common as passes
from torch._subclasses.fake_tensor import FakeTensorMode

from ..refimpl import params as trees
from ..refimpl.config import Config
from ..refimpl.errors import ExportError
from ..runtime.layout import Group
from .module import Decoder
from .seam import exporting
from .targets import Target
from .targets.leaves import Blocked, NBits, Row, Static

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "uint4": torch.uint8,
    "int4": torch.int8,
}


def build(
    config: Config,
    tensors: Mapping[str, Any],
    groups: Mapping[str, Group],
    target: Target,
    *,
    data: Path,
    dtype: str = "float32",
    opset: int | None = None,
) -> tuple[ir.Model, list[str]]:
    """The graph over the tensors in `data`, and the reasons why fused forms were refused.

    Raises ExportError when the exporter changed what was promised: a dynamic axis that became a
    constant, an initializer that is missing or was copied into the graph.
    """
    emits, reasons = target.emits(config)
    with FakeTensorMode():
        fakes = {
            name: torch.empty(tuple(entry.shape), dtype=DTYPES[entry.dtype])
            for name, entry in tensors.items()
        }
        module = Decoder(
            config, trees.unflatten({name: _leaf(group, fakes) for name, group in groups.items()})
        ).eval()
        inputs = _inputs(config, DTYPES[dtype])
        with exporting(emits), warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset or target.opset,
                input_names=[name for name, _ in input_axes(config)],
                output_names=output_names(config),
                dynamic_shapes=_dynamic(config),
            )
    if program is None:
        raise ExportError("the exporter gave no program")
    model = program.model
    weights = _weights(model, tensors, data)
    # The optimizer doesn't see the weights: it would copy what it folds into the graph, and make one
    # of two small ones that are equal, such as norms of ones.
    with quiet():
        onnxscript.optimizer.optimize_ir(
            model,
            should_fold=lambda node: False if any(v and v.name in tensors for v in node.inputs) else None,
        )
        passes.CommonSubexpressionEliminationPass()(model)
    _strip(model)
    _check(model, config, tensors)
    for name, tensor in weights.items():
        model.graph.initializers[name].const_value = tensor
    return model, reasons


def input_axes(config: Config) -> list[tuple[str, list[str | int]]]:
    """Name and axes of each graph input, in order; a string is an axis that varies."""
    found: list[tuple[str, list[str | int]]] = [
        ("tokens", ["batch", "time"]),
        ("past", ["batch"]),
        ("at", ["batch", "wanted"]),
    ]
    for i, layer in enumerate(config.layers):
        a = layer.attention
        found += [(f"{name}.{i}", ["batch", a.groups, "capacity", a.head_size]) for name in ("k", "v")]
    for i, rope in enumerate(config.ropes):
        found += [(f"{name}.{i}", ["capacity", rope.dims // 2]) for name in ("cos", "sin")]
    return found


def output_names(config: Config) -> list[str]:
    """Names of the graph's outputs, in order."""
    layers = range(len(config.layers))
    return ["logits", *(f"{name}_out.{i}" for i in layers for name in ("k", "v"))]


def _leaf(group: Group, fakes: Mapping[str, torch.Tensor]) -> Any:
    """The leaf that stands for a group of stored tensors."""
    scheme = group.scheme
    if scheme is None:
        return fakes[group.name]

    def field(name: str) -> Any:
        return fakes.get(f"{group.name}.{name}")

    if group.kind == "row":
        return Row(field("codes"), field("scale"))
    if group.kind == "static":
        return Static(field("codes"), field("scale"), field("input_scale"), field("input_zero"))
    zero, minimum = field("zero"), field("minimum")
    if group.kind == "nbits":
        packed, scale = field("packed"), field("scale")
        return NBits(packed, scale, zero, minimum, scheme.bits, scheme.block, group.length)
    return Blocked(field("codes"), field("scale"), zero, minimum, scheme.bits, scheme.block)


def _inputs(config: Config, dtype: torch.dtype) -> tuple[Any, ...]:
    """Arguments of `Decoder.forward` for tracing: sizes of at least two and all different."""
    sizes = {"batch": 2, "time": 3, "wanted": 5, "capacity": 7}
    made = {}
    for name, axes in input_axes(config):
        shape = [sizes[a] if isinstance(a, str) else a for a in axes]
        made[name] = torch.zeros(shape, dtype=torch.int64 if name in ("tokens", "past", "at") else dtype)
    return _arguments(config, made)


def _dynamic(config: Config) -> tuple[Any, ...]:
    dim = {name: torch.export.Dim(name) for name in ("batch", "time", "wanted", "capacity")}
    made = {
        name: {i: dim[a] for i, a in enumerate(axes) if isinstance(a, str)}
        for name, axes in input_axes(config)
    }
    return _arguments(config, made)


def _arguments(config: Config, made: Mapping[str, Any]) -> tuple[Any, ...]:
    """What stands for each graph input, as `Decoder.forward` takes it.

    Without rotary positions there are no tables: for an empty list, the exporter names no axis.
    """
    cache = [(made[f"k.{i}"], made[f"v.{i}"]) for i in range(len(config.layers))]
    tables = [(made[f"cos.{i}"], made[f"sin.{i}"]) for i in range(len(config.ropes))]
    whole = made["tokens"], made["past"], made["at"], cache
    return (*whole, tables) if tables else whole


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


def _check(model: ir.Model, config: Config, tensors: Mapping[str, Any]) -> None:
    wanted = {name: [str(a) for a in axes] for name, axes in input_axes(config)}
    got = {v.name: [str(d) for d in v.shape or ()] for v in model.graph.inputs}
    for name, axes in wanted.items():
        if got.get(name) != axes:
            raise ExportError(f"graph input {name} must be {axes}, the exporter made {got.get(name)}")
    if lost := sorted(set(tensors) - set(model.graph.initializers)):
        raise ExportError(f"the optimizer removed stored weights: {', '.join(lost[:5])}")
