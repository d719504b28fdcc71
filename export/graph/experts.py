"""Trace one expert of a mixture, and then repeat the expert in the graph.

    ExpertNumber(y)  ->  e
    index == e  ->  products of expert 0 over its tokens, added to y  ->  z
    EveryExpert(z, y, e)

A program has this form if all experts of a mixture are stored in the same form. `repeat_all` removes the
operators ExpertNumber and EveryExpert. The nodes between them are repeated for each expert, with the expert's
number and weights. Each expert adds to the output of the expert before it. Tracing takes a third of a second
for an expert, and models have thousands of experts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Mapping
from typing import Literal, TypeVar

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir import convenience
from torch.onnx import ops as onnx

from ...refimpl.config import Gate
from ...refimpl.errors import ExportError
from ...refimpl.ops.moe import ExpertWeights
from ...runtime.bundle.kernel_storage import DOMAIN
from ...runtime.bundle.plan import Tensor
from ...runtime.bundle.weight_storage import Group
from ..dispatch import body
from ..ops import moe
from ..ops.moe import expert_rows, no_sum

T = TypeVar("T")

NUMBER, EVERY = "ExpertNumber", "EveryExpert"
EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(.+)")
LENGTH = re.compile(r"\bu\d+\b")  # torch's name of one that depends on the inputs


def mixture(
    x: torch.Tensor,
    index: torch.Tensor,
    weights: torch.Tensor,
    experts: list[ExpertWeights],
    fits: torch.Tensor | None = None,
    *,
    kind: Gate,
    weighs: Literal["output", "input"] = "output",
) -> torch.Tensor:
    """Replace the op `mixture` while a graph is traced. A single expert is written between the operators
    ExpertNumber and EveryExpert, and `repeat_all` repeats it later.

    If there are several experts, they aren't stored in the same form, and all of them are written.
    """
    if len(experts) > 1:
        return body(moe.mixture)(x, index, weights, experts, fits, kind=kind, weighs=weighs)
    assert fits is None
    y = no_sum(x)
    number = onnx.symbolic(f"{DOMAIN}::{NUMBER}", (y,), dtype=torch.int64, shape=(), version=1)
    token, out = expert_rows(x, index == number, weights, experts[0], kind=kind, weighs=weighs)
    added = y.index_add(0, token, out.to(y.dtype))
    y = onnx.symbolic(f"{DOMAIN}::{EVERY}", (added, y, number), dtype=y.dtype, shape=y.shape, version=1)
    return y.to(x.dtype)


def stored_alike(groups: Mapping[str, Group]) -> set[str]:
    """Return the names of the lists of experts in which all experts have the same parameters, stored in the
    same form.
    """
    forms: dict[str, dict[str, set[Hashable]]] = {}
    for name, group in groups.items():
        if found := EXPERT.fullmatch(name):
            path, number, leaf = found.groups()
            form = leaf, group.kind, group.format, group.shapes
            forms.setdefault(path, {}).setdefault(number, set()).add(form)
    return {path for path, of in forms.items() if all(form == of["0"] for form in of.values())}


def traced(named: Mapping[str, T], alike: Collection[str]) -> dict[str, T]:
    """Return the parameters or tensors that tracing needs. In the lists `alike`, only the first expert is
    needed, because the others are repeated from it.
    """

    def repeats(name: str) -> bool:
        found = EXPERT.fullmatch(name)
        return found is not None and found[1] in alike and found[2] != "0"

    return {name: value for name, value in named.items() if not repeats(name)}


def repeat_all(model: ir.Model, tensors: Mapping[str, Tensor]) -> None:
    """Repeat the traced expert of each mixture for all experts that the bundle stores.

    Needs: initializers named as the bundle stores them. Ensures: one initializer for each stored tensor of
    these mixtures. Raises ExportError if something outside of an expert reads the expert's weights.
    """
    counts: dict[str, int] = {}
    for name in tensors:
        if found := EXPERT.fullmatch(name):
            counts[found[1]] = max(counts.get(found[1], 0), int(found[2]) + 1)
    graph, own = model.graph, None
    for node in list(graph):
        if node.op_type == NUMBER:
            own = Expert(node)
        elif own is None:
            continue
        elif node.op_type == EVERY:
            _repeat(graph, own, node, counts)
            own = None
        else:
            own.take(node)
    graph.opset_imports.pop(DOMAIN, None)


class Expert:
    """The part of a graph that is repeated for each expert: nodes in order, and the weights that these nodes
    read.
    """

    def __init__(self, marker: ir.Node) -> None:
        self.marker = marker
        self.nodes: dict[ir.Node, None] = {}
        self.leaves: dict[ir.Value, None] = {}
        self.values = {*marker.inputs, *marker.outputs}

    def take(self, node: ir.Node) -> None:
        """Add the node to the expert, if the node reads the expert's number, its weights, or values computed
        from them.
        """
        leaves = {value: None for value in node.inputs if value is not None and _is_leaf(value)}
        if leaves or not self.values.isdisjoint(node.inputs):
            self.nodes[node] = None
            self.leaves |= leaves
            self.values |= set(node.outputs)


def _is_leaf(value: ir.Value) -> bool:
    return value.is_initializer() and EXPERT.fullmatch(str(value.name)) is not None


def _repeat(graph: ir.Graph, one: Expert, every: ir.Node, counts: Mapping[str, int]) -> None:
    added, before, number = every.inputs
    assert added is not None
    assert before is not None
    assert number is not None
    paths = {EXPERT.sub(r"\1", str(leaf.name)) for leaf in one.leaves}
    if len(paths) != 1 or any(use.node not in one.nodes for leaf in one.leaves for use in leaf.uses()):
        raise ExportError(
            f"in {', '.join(sorted(paths))}, a node outside of an expert reads the expert's weights"
        )
    [path] = paths
    last, copies = added, []
    for e in range(1, counts[path]):
        values = {before: last, number: _number(graph, e)}
        values |= {leaf: _leaf(graph, leaf, e) for leaf in one.leaves}
        copies += [_copy(node, values, e) for node in one.nodes]
        last = values[added]
    number.replace_all_uses_with(_number(graph, 0))
    convenience.replace_nodes_and_values(graph, every, [every], copies, every.outputs, [last])
    graph.remove(one.marker, safe=True)


def _number(graph: ir.Graph, e: int) -> ir.Value:
    """Return a constant with the number `e` of an expert."""
    name = f"expert.{e}"
    if name not in graph.initializers:
        tensor = ir.tensor(np.array(e, np.int64), name=name)
        graph.register_initializer(ir.Value(name=name, const_value=tensor))
    return graph.initializers[name]


def _leaf(graph: ir.Graph, first: ir.Value, e: int) -> ir.Value:
    """Add to the graph the weight of expert `e` that corresponds to a weight `first` of expert 0."""
    name = EXPERT.sub(rf"\g<1>.{e}.\g<3>", str(first.name))
    leaf = ir.Value(name=name, type=first.type, shape=first.shape)
    graph.initializers.add(leaf)
    return leaf


def _copy(node: ir.Node, values: dict[ir.Value, ir.Value], e: int) -> ir.Node:
    """Return a copy of a node for expert `e`. The dict `values` says which value replaces each input, and the
    function adds the copy's outputs to it.
    """
    inputs = [None if value is None else values.get(value, value) for value in node.inputs]
    count = len(node.outputs)
    copy = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), num_outputs=count)
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        new.type = old.type
        new.shape = None if old.shape is None else ir.Shape([_length(axis, e) for axis in old.shape])
        values[old] = new
    return copy


def _length(axis: int | ir.SymbolicDim, e: int) -> int | str | None:
    """Return the length of an axis for expert `e`. If the length depends on which tokens chose the expert,
    its name gets the expert's number.
    """
    if isinstance(axis, int) or axis.value is None:
        return axis if isinstance(axis, int) else None
    return LENGTH.sub(rf"\g<0>_{e}", str(axis.value))
