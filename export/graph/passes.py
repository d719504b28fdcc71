"""Change a traced graph by passes: simplify it, strip notes, name and place weights, and finally check the
graph.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir import convenience
from onnx_ir.passes import common
from onnxscript import rewriter

from ...refimpl.errors import ExportError
from ...runtime.bundle.graph_io import Graph
from ...runtime.bundle.operators import OPERATORS
from ...runtime.bundle.plan import Tensor
from ...runtime.bundle.views import place, stored_name, view_name

# Where reads and writes number by number; the other appends to the cache that it reads.
IN_PLACE = ("GroupQueryAttention", "Where")
FLOATS = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}


def name_weights(model: ir.Model, stored: Mapping[str, Tensor]) -> None:
    """Give the graph's weights the names under which the bundle stores them, and remove their values.

    Needs: a traced model, whose weights are named `leaves.NAME`. Ensures: one initializer for each stored
    name, with its type and without a value. Raises ExportError if a weight isn't stored, or if the graph
    doesn't use a stored weight.
    """
    traced = list(model.graph.initializers.items())
    for name, value in traced:
        leaf = name.removeprefix("leaves.")
        if leaf in stored:
            value.name = leaf
            value.const_value = None
            value.dtype = _type(stored[leaf])
        elif value.const_value is None:
            raise ExportError(f"the graph contains a weight that isn't stored: {name}")
    if missing := sorted(set(stored) - set(model.graph.initializers)):
        raise ExportError(f"the graph doesn't use these stored weights: {', '.join(missing[:5])}")


def optimize(model: ir.Model, stored: Collection[str]) -> None:
    """Simplify the graph: fold constants, compute equal expressions once, and remove Identity nodes.

    Needs: stored weights without values. If weights had values, the optimizer would fold expressions of
    weights into constants inside the graph. The optimizer would also merge small weights that are equal, such
    as two norms whose weights are all ones. Ensures: the weights stay as they were.
    """
    with rules_by_operator():
        onnxscript.optimizer.optimize_ir(
            model,
            should_fold=lambda node: False if any(v and v.name in stored for v in node.inputs) else None,
        )
    common.CommonSubexpressionEliminationPass()(model)
    common.IdentityEliminationPass()(model)


@contextmanager
def rules_by_operator() -> Iterator[None]:
    """During a `with` block, make the optimizer try each of its rules only at nodes whose operator can match
    the rule.

    The optimizer tries all 46 rules at every node, and one of the rules searches the whole graph each time. A
    rule's pattern begins with an operator, and never matches at a node of another operator. So nothing is
    lost.
    """
    rules = rewriter._DEFAULT_REWRITE_RULES
    rewriter._DEFAULT_REWRITE_RULES = tuple(map(_at_its_operator, rules))
    try:
        yield
    finally:
        rewriter._DEFAULT_REWRITE_RULES = rules


def _at_its_operator(rule: Any) -> Any:
    operator = rule._target_pattern.output_nodes[0].op_identifier()
    if operator is None:
        return rule
    chosen = copy.copy(rule)

    def try_rewrite(model: ir.Model, graph: Any, node: ir.Node, **options: Any) -> Any:
        return rule.try_rewrite(model, graph, node, **options) if node.op_identifier() == operator else None

    chosen.try_rewrite = try_rewrite
    return chosen


def sum_three(model: ir.Model) -> None:
    """Replace residual + (a + b) by Sum(residual, a, b), if a + b is a product in two parts: packed codes and
    minima.

    A small operator of ONNX Runtime costs more than its arithmetic. Ensures: the same values.
    """
    for inner in list(model.graph):
        producers = [value.producer() for value in inner.inputs if value is not None]
        kinds = {node.op_type for node in producers if node is not None}
        uses = list(inner.outputs[0].uses())
        if inner.op_type != "Add" or kinds != {"MatMul", "MatMulNBits"} or len(uses) != 1:
            continue
        outer, index = uses[0]
        if outer.op_type == "Add":
            residual = outer.inputs[1 - index]
            new = ir.node("Sum", [residual, *inner.inputs], name=outer.name)
            convenience.replace_nodes_and_values(
                model.graph, outer, [outer, inner], [new], [outer.outputs[0]], [new.outputs[0]]
            )


def view_weights(model: ir.Model, stored: Collection[str]) -> None:
    """Replace each Reshape of a stored weight by an initializer that reads the same bytes in the new shape
    (`runtime.bundle.views`).

    Ensures: the weight itself stays if other nodes read it.
    """
    weights = model.graph.initializers
    for name in stored:
        weight = weights[name]
        for node in [use.node for use in weight.uses() if use.node.op_type == "Reshape"]:
            (reshaped,) = node.outputs
            assert reshaped.shape is not None
            shape = reshaped.shape.numpy()
            view = ir.Value(name=view_name(name, shape), type=weight.type, shape=reshaped.shape)
            weights.add(view)
            reshaped.replace_all_uses_with(view)
            model.graph.remove(node, safe=True)
        if not weight.uses():
            del weights[name]


def strip_notes(model: ir.Model) -> None:
    """Remove the exporter's notes from the graph. The notes name source lines, and a bundle's bytes must not
    depend on source lines.
    """
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = None
    model.graph.doc_string = None
    model.producer_name = "tfm"
    model.producer_version = None


def check(model: ir.Model, graph: Graph, stored: Mapping[str, Tensor]) -> None:
    """Raise ExportError if an input's axis became a constant, if a stored weight is missing from the graph,
    or if the graph contains an operator that no bundle may have.
    """
    axes = {value.name: [str(axis) for axis in value.shape or ()] for value in model.graph.inputs}
    for port in graph.inputs:
        expected = [str(axis) for axis in port.axes]
        if axes.get(port.name) != expected:
            raise ExportError(f"graph input {port.name} must have axes {expected}, got {axes.get(port.name)}")
    operators = {(node.domain, node.op_type) for node in model.graph.all_nodes()}
    if odd := sorted(name for domain, name in operators if name not in OPERATORS.get(domain, ())):
        raise ExportError(f"the graph has operators that a bundle may not have: {', '.join(odd)}")
    read = {stored_name(name, stored) for name in model.graph.initializers}
    if lost := sorted(set(stored) - read):
        raise ExportError(f"the optimizer removed stored weights: {', '.join(lost[:5])}")


def check_in_place(model: ir.Model) -> None:
    """Raise ExportError if a step may overwrite a cache array before all nodes that read the array have run.

    Cache arrays are inputs of the graph. In a shared cache, the output NAME_out.I uses the same memory as the
    input NAME.I. Only the nodes on which a node's inputs depend are certain to run before this node. The node
    that writes an array may read the array itself if its operator is in `IN_PLACE`.
    """
    outputs = {value.name: value for value in model.graph.outputs}
    for value in model.graph.inputs:
        name, _, layer = str(value.name).partition(".")
        written = outputs.get(f"{name}_out.{layer}")
        writer = None if written is None else written.producer()
        if writer is None:
            continue
        before: set[ir.Node] = set()
        following = [writer]
        while following:
            inputs = following.pop().inputs
            producers = {node for read in inputs if read is not None and (node := read.producer())}
            following += producers - before
            before |= producers
        # Shape reads none of the numbers.
        late = {use.node for use in value.uses() if use.node.op_type != "Shape"} - before
        if late - ({writer} if writer.op_type in IN_PLACE else set()):
            raise ExportError(
                f"a node may overwrite the input {value.name} before other nodes have read this input"
            )


def _type(tensor: Tensor) -> ir.DataType:
    return FLOATS.get(tensor.dtype) or ir.DataType[tensor.dtype.upper()]


def point_weights(model: ir.Model, tensors: Mapping[str, Tensor], data: Path) -> None:
    """Point each stored weight of the graph to its bytes in the data file.

    This is the last pass, so that no other pass reads a weight.
    """
    for name, value in model.graph.initializers.items():
        if (tensor := place(name, tensors)) is None:
            continue
        value.shape = ir.Shape(tensor.shape)
        value.const_value = ir.ExternalTensor(
            data.name,
            tensor.offset,
            tensor.length,
            _type(tensor),
            shape=ir.Shape(tensor.shape),
            name=name,
            base_dir=data.parent,
        )
