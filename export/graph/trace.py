"""Trace a module with a target's operators into an ONNX graph without weights.

The graph is traced with fake tensors, which have the stored shapes but no data. The exporter never sees a
weight, so even a large model only needs the memory of its graph.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.fx import config as fx_config

from ...refimpl.config import Config
from ...refimpl.errors import ExportError
from ...refimpl.params.tree import unflatten
from ...runtime.bundle.graph_io import Graph
from ...runtime.bundle.plan import Tensor
from ...runtime.bundle.weight_storage import Group
from ..dispatch import exporting
from ..targets.emits import Emits
from ..targets.packed_weights import Blocked, NBits, RowQuantized, Static
from .decompose import TRANSLATED, decompose
from .module import GraphModule

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "int8": torch.int8,
    "uint4": torch.uint8,
    "int4": torch.int8,
}
# Sizes for tracing: at least two and all different; those of caches with a window follow.
SIZES = {"batch": 2, "time": 3, "wanted": 5, "capacity": 7, "text": 11}


def trace(
    config: Config,
    graph: Graph,
    groups: Mapping[str, Group],
    tensors: Mapping[str, Tensor],
    emits: Emits,
    *,
    dtype: str,
    opset: int,
) -> ir.Model:
    """Trace one graph of the model and return it. The functions in `emits` replace ops by the target's
    operators.

    Needs: only the groups and tensors of this graph. Ensures: the traced graph's inputs and outputs have the
    names that `graph` gives them, and their axes stay dynamic unless the exporter made them constant. Each
    tensor is an initializer `leaves.NAME` without a value.
    """
    with FakeTensorMode():
        fakes = {name: torch.empty(t.shape, dtype=DTYPES[t.dtype]) for name, t in tensors.items()}
        leaves = unflatten({name: _leaf(group, fakes) for name, group in groups.items()})
        module = GraphModule(config, graph, leaves, DTYPES[dtype]).eval()
        with exporting(emits), warnings.catch_warnings(), quiet(), decomposed_in_place():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                _inputs(config, graph, DTYPES[dtype]),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset,
                input_names=[port.name for port in graph.inputs],
                output_names=[port.name for port in graph.outputs],
                dynamic_shapes=(_dynamic(config, graph),),
                custom_translation_table=TRANSLATED,
            )
    if program is None:
        raise ExportError("torch.onnx.export returned no program: please report this")
    return program.model


def _leaf(group: Group, fakes: Mapping[str, torch.Tensor]) -> Any:
    """Return the parameter that a group of stored tensors represents, with fake tensors in place of the
    stored ones.
    """
    weight_format = group.format
    if weight_format is None:
        return fakes[group.name]

    def field(name: str) -> Any:
        return fakes.get(f"{group.name}.{name}")

    match group.kind:
        case "row":
            return RowQuantized(field("codes"), field("scale"), field("input_factor"))
        case "static":
            return Static(
                field("codes"),
                field("scale"),
                field("input_scale"),
                field("input_zero"),
                field("output_scale"),
                field("output_zero"),
            )
        case "nbits":
            return NBits(
                field("packed"),
                field("scale"),
                field("zero"),
                field("minimum"),
                weight_format.bits,
                weight_format.block,
                weight_format.activations == "block",
                group.length,
            )
        case _:
            return Blocked(
                field("codes"),
                field("scale"),
                field("zero"),
                field("minimum"),
                weight_format.bits,
                weight_format.block,
            )


def _inputs(config: Config, graph: Graph, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Return tensors of zeros as arguments of `GraphModule.forward` for tracing."""
    sizes = _sizes(config, graph)
    return tuple(
        torch.zeros(
            [sizes[axis] if isinstance(axis, str) else axis for axis in port.axes],
            dtype=DTYPES[port.dtype] if port.dtype else dtype,
        )
        for port in graph.inputs
    )


def _sizes(config: Config, graph: Graph) -> dict[str, int]:
    """Return the size of each dynamic axis for tracing. The number of samples of a sound is enough for as
    many positions as a text has tokens.
    """
    axes = dict.fromkeys(axis for port in graph.inputs for axis in port.axes if isinstance(axis, str))
    others = [axis for axis in axes if axis not in SIZES]
    heard = {} if config.stem is None else {"samples": config.stem.least(SIZES["time"]) + 1}
    return SIZES | {axis: 13 + i for i, axis in enumerate(others)} | heard


def _dynamic(config: Config, graph: Graph) -> tuple[dict[int, Any], ...]:
    """Return the dynamic axes of each input, as a dict from the axis to its name and bounds."""
    dims = {axis: torch.export.Dim(axis) for axis in _sizes(config, graph)}
    if config.stem is not None:
        dims["samples"] = torch.export.Dim("samples", min=config.stem.least(2))
    return tuple(
        {i: dims[axis] for i, axis in enumerate(port.axes) if isinstance(axis, str)} for port in graph.inputs
    )


@contextmanager
def decomposed_in_place() -> Iterator[None]:
    """During a `with` block, make the exporter use `decompose`, which doesn't trace a program again. If
    `decompose` has no rule for an operator, the exporter traces the program again as usual.
    """
    trace_again = ExportedProgram.run_decompositions

    def run_decompositions(self: ExportedProgram, table: dict[Any, Any]) -> ExportedProgram:
        return self if decompose(self, table) else trace_again(self, table)

    ExportedProgram.run_decompositions = run_decompositions  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with promoted_in_place(), unnoted():
            yield
    finally:
        ExportedProgram.run_decompositions = trace_again


@contextmanager
def promoted_in_place() -> Iterator[None]:
    """During a `with` block, make the exporter cast arguments to a common type without computing known values
    again. This saves a quarter of an export's time.

    The function changes internals of torch 2.13. If torch has other internals, the exporter stays unchanged
    and is slower.
    """
    try:
        from torch.onnx._internal.fx.passes import type_promotion

        promotion, rule_of = type_promotion._TypePromotionInterpreter, type_promotion.get_type_promotion_rule
        compute, current, promote = (
            getattr(promotion, name) for name in ("run_node", "_set_current_node", "_maybe_promote_node")
        )
    except (ImportError, AttributeError):
        yield
        return

    def run_node(self: Any, n: torch.fx.Node) -> Any:
        if n.op != "call_function" or "val" not in n.meta:
            return compute(self, n)
        with current(self, n):
            if rule := rule_of(n, self.type_promotion_table):
                promote(self, n, rule)
        return n.meta["val"]

    promotion.run_node = run_node
    try:
        yield
    finally:
        promotion.run_node = compute


@contextmanager
def unnoted() -> Iterator[None]:
    """During a `with` block, make the exporter omit the notes of source lines at a program's nodes. This
    saves a tenth of an export's time, and bundles don't contain such notes anyway.
    """
    before, fx_config.do_not_emit_stack_traces = fx_config.do_not_emit_stack_traces, True
    try:
        yield
    finally:
        fx_config.do_not_emit_stack_traces = before


@contextmanager
def quiet() -> Iterator[None]:
    """During a `with` block, silence the logs of the exporter and of the optimizer."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
