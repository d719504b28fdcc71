"""Provide helpers that replace nodes of a graph by kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience


def put(
    graph: ir.Graph, new: ir.Node, after: ir.Node, replaced: Sequence[ir.Node], old: Sequence[ir.Value]
) -> None:
    """Insert the node `new` after the node `after`, and remove the nodes `replaced`. The new node's outputs
    replace the values `old` and get their names.
    """
    for output, before in zip(new.outputs, old, strict=True):
        output.name = before.name
    convenience.replace_nodes_and_values(graph, after, replaced, [new], old, new.outputs)


def given(inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value | None]:
    """Return the inputs without the missing ones (None) at the end."""
    while inputs and inputs[-1] is None:
        inputs = inputs[:-1]
    return inputs


def only_reader(value: ir.Value, operator: str) -> ir.Node | None:
    """Return the only node that reads the value, if there is one and it has this operator. Otherwise return
    None.
    """
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and uses[0].node.op_type == operator else None


def silu_of(value: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    """Return the Sigmoid of a value, and the product of value and Sigmoid. Return None if anything else reads
    the value or the Sigmoid.
    """
    readers = {use.node.op_type: use.node for use in value.uses()}
    if set(readers) != {"Sigmoid", "Mul"} or len(list(value.uses())) != 2:
        return None
    sigmoid, product = readers["Sigmoid"], readers["Mul"]
    return (sigmoid, product) if only_reader(sigmoid.outputs[0], "Mul") is product else None


def precise_silu_of(value: ir.Value) -> ir.Node | None:
    """Return the product of a value and its `precise_sigmoid`. Return None if anything else reads the
    value.
    """
    readers = {use.node.op_type: use.node for use in value.uses()}
    if set(readers) != {"Abs", "GreaterOrEqual", "Mul"} or len(list(value.uses())) != 3:
        return None
    product = readers["Mul"]
    gate = made_by(next(x for x in product.inputs if x is not value), "Div")
    return product if gate is not None and precise_sigmoid_of(gate) is value else None


def precise_sigmoid_of(gate: ir.Node) -> ir.Value | None:
    """Return x if this Div computes `precise_sigmoid` of x. Otherwise return None."""
    above, total = made_by(gate.inputs[0], "Where"), made_by(gate.inputs[1], "Add")
    if above is None or total is None:
        return None
    condition, one, e = above.inputs
    chosen, below = made_by(condition, "GreaterOrEqual"), made_by(e, "Exp")
    if chosen is None or constant(chosen.inputs[1]) != [0] or constant(one) != [1]:
        return None
    if total.inputs[0] is not e or constant(total.inputs[1]) != [1]:
        return None
    negative = None if below is None else made_by(below.inputs[0], "Neg")
    size = None if negative is None else made_by(negative.inputs[0], "Abs")
    return None if size is None or size.inputs[0] is not chosen.inputs[0] else size.inputs[0]


def made_by(value: ir.Value | None, operator: str) -> ir.Node | None:
    """Return the node that computes a value, if the node has this operator. Otherwise return None."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == operator else None


def constant(value: ir.Value | None) -> list[float] | None:
    """Return the numbers of a constant that is stored in the graph itself. Return None for any other
    value.
    """
    if value is None or value.const_value is None or isinstance(value.const_value, ir.ExternalTensor):
        return None
    return np.ravel(value.const_value.numpy()).tolist()
