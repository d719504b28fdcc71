"""Rewrite a graph of fixed shapes without comparisons, choices, or reads and writes at computed positions.

NNAPI has none of these operators and CoreML has few, so each such operator cuts a graph into parts. This
module writes these operators as arithmetic, with 1 for true and 0 for false. Below, a and b are whole
numbers, and p[t] are positions in a table or cache X of L rows:

    a <= b                     clip(b - a + 1, 0, 1)
    not a; a and b; a or b     1 - a; a * b; max(a, b)
    c ? x : y                  c * x + (1 - c) * y
    X[p[t]]                    S @ X,  where S[t, l] = clip(1 - (p[t] - l)^2, 0, 1)
    X with X[p[t]] = Y[t]      (1 - S^T @ 1) * X + S^T @ Y

A layer norm, which NNAPI lacks too, is written as its means, quotient and root. Expand is written as a
product with ones.

**Conventions**: differences are computed between whole numbers, so that the clipped results are right in
float16 too. Masked scores are -3e4, because float16 can't represent the lowest float32. The exponential of
-3e4 beside any score above -2.9e4 is 0. At a position beyond the last row, a read gives zeros and a write
does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience
from onnx_ir.tape import Tape

LOWEST = -3e4
WHOLE = (ir.DataType.INT64, ir.DataType.INT32)
# What takes booleans as it takes numbers.
MOVES = ("Concat", "Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def rewrite(model: ir.Model) -> None:
    """Rewrite comparisons, choices, and reads and writes at computed positions as arithmetic. Needs fixed
    shapes. Ensures the same values.

    If an operator that can't be rewritten computes with a Boolean, all Booleans stay unchanged.
    """
    writers = dict(PLACES)
    if all(_is_known(node) for node in model.graph if _has_booleans(node)):
        writers |= CHOICES
        _number_booleans(model.graph)
    graph = _Writer(model.graph)
    for node in list(model.graph):
        if (write := writers.get(node.op_type)) is not None:
            graph.replace(node, write)


def _has_booleans(node: ir.Node) -> bool:
    return any(v is not None and v.dtype == ir.DataType.BOOL for v in (*node.inputs, *node.outputs))


def _is_known(node: ir.Node) -> bool:
    """Return whether an operator with Boolean inputs or outputs can be written as arithmetic. A comparison
    must be of whole numbers, and a choice of floats.
    """
    if node.op_type in COMPARISONS:
        return all(value is not None and value.dtype in WHOLE for value in node.inputs)
    if node.op_type == "Where":
        return (dtype := node.outputs[0].dtype) is not None and dtype.is_floating_point()
    return node.op_type in CHOICES or node.op_type in MOVES


def _number_booleans(graph: ir.Graph) -> None:
    """Turn Boolean constants into floats, and declare all Boolean values as floats."""
    for value in graph.initializers.values():
        if value.dtype == ir.DataType.BOOL and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
    for value in (*graph.initializers.values(), *(v for node in graph for v in node.outputs)):
        if value.dtype == ir.DataType.BOOL:
            value.dtype = ir.DataType.FLOAT


class _Writer:
    """Replaces nodes of a graph, one after the other, by new nodes. The methods add these new nodes."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph, self._tape = graph, Tape()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def replace(self, node: ir.Node, write: Callable[[_Writer, ir.Node], ir.Value | None]) -> None:
        """Replace a node by the nodes that `write` adds. If `write` returns None, the node stays
        unchanged.
        """
        self._tape = Tape()
        new = write(self, node)
        if new is None:
            return
        (old,) = node.outputs
        for i, made in enumerate(self._tape.nodes):
            made.name = f"{node.name}.{made.op_type}.{i}"
            made.outputs[0].name = f"{old.name}.{i}"
        new.name, new.shape, new.type = old.name, old.shape, old.type
        convenience.replace_nodes_and_values(self._graph, node, [node], self._tape.nodes, [old], [new])

    def op(self, operator: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return self._tape.op(operator, inputs, attributes)

    def constant(self, array: np.ndarray) -> ir.Value:
        key = array.dtype.name, array.shape, array.tobytes()
        if key not in self._constants:
            name = f"arithmetic.{len(self._constants)}"
            value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            self._graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def number(self, value: float, like: ir.Value | None = None) -> ir.Value:
        """Return a constant number with the float type of `like`. Without `like`, the type is float32."""
        dtype = np.dtype(np.float32) if like is None or like.dtype is None else like.dtype.numpy()
        return self.constant(np.array(value, dtype))

    def cast(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """Cast a float32 value to the type of `like`."""
        same = like.dtype in (None, ir.DataType.FLOAT)
        return value if same else self.op("Cast", value, to=like.dtype)

    def from_0_to_1(self, value: ir.Value) -> ir.Value:
        return self.op("Clip", value, self.number(0), self.number(1))

    def difference(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Return a − b as a float, for two whole numbers."""
        return self.op("Cast", self.op("Sub", a, b), to=ir.DataType.FLOAT)

    def inverse(self, value: ir.Value, like: ir.Value | None = None) -> ir.Value:
        """Return 1 − value. The value must have the type of `like`. Without `like`, it must be a float32."""
        return self.op("Sub", self.number(1, like), value)

    def equal(self, a: ir.Value, b: ir.Value) -> ir.Value:
        d = self.difference(a, b)
        return self.from_0_to_1(self.inverse(self.op("Mul", d, d)))

    def reshape(self, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        return self.op("Reshape", value, self.constant(np.array(shape, np.int64)))


def _inputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _shape(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return value.shape.numpy()


def _at_most(g: _Writer, a: ir.Value, b: ir.Value) -> ir.Value:
    return g.from_0_to_1(g.op("Add", g.difference(b, a), g.number(1)))


def _below(g: _Writer, a: ir.Value, b: ir.Value) -> ir.Value:
    return g.from_0_to_1(g.difference(b, a))


def _where(g: _Writer, node: ir.Node) -> ir.Value:
    chosen, x, y = _inputs(node)
    c = g.cast(chosen, node.outputs[0])
    if x.const_value is not None and x.const_value.size == 1 and x.const_value.numpy().item() < LOWEST:
        x = g.number(LOWEST, x)
    return g.op("Add", g.op("Mul", c, x), g.op("Mul", g.inverse(c, x), y))


def _column(node: ir.Node) -> ir.Value | None:
    """Return the positions [..., W, 1] at which a node reads or writes whole rows of a table [..., L, D].
    Return None if the node doesn't use whole rows.
    """
    table, index, *_ = _inputs(node)
    expand, axis, rank = index.producer(), node.attributes.get_int("axis", 0), len(_shape(table))
    if expand is None or expand.op_type != "Expand" or axis % rank != rank - 2:
        return None
    places = expand.inputs[0]
    return places if places is not None and _shape(places)[-1:] == (1,) else None


def _gather_elements(g: _Writer, node: ir.Node) -> ir.Value | None:
    table = _inputs(node)[0]
    if (places := _column(node)) is None:
        return None
    return _rows(g, table, places)


def _rows(g: _Writer, table: ir.Value, places: ir.Value) -> ir.Value:
    """Return the rows of a table [..., L, D] at the positions [..., W, 1]."""
    every = g.constant(np.arange(_shape(table)[-2]))
    return g.op("MatMul", g.cast(g.equal(places, every), table), table)


def _gather(g: _Writer, node: ir.Node) -> ir.Value | None:
    """Rewrite a Gather of a table's rows at computed positions. If the positions are an input of the graph,
    such as tokens, the Gather stays, because the table may be long.
    """
    table, index = _inputs(node)
    if index.producer() is None or node.attributes.get_int("axis", 0) or len(_shape(table)) != 2:
        return None
    if table.dtype is None or not table.dtype.is_floating_point():
        return None
    return _rows(g, table, g.reshape(index, (*_shape(index), 1)))


def _scatter_elements(g: _Writer, node: ir.Node) -> ir.Value | None:
    cache, _, new = _inputs(node)
    if (places := _column(node)) is None or node.attributes.get_string("reduction", "none") != "none":
        return None
    *outer, time, _ = _shape(places)
    every = g.constant(np.arange(_shape(cache)[-2])[:, None])
    here = g.cast(g.equal(g.reshape(places, (*outer, 1, time)), every), cache)
    ones = g.op("MatMul", here, g.cast(g.constant(np.ones((time, 1), np.float32)), cache))
    return g.op("Add", g.op("Mul", cache, g.inverse(ones, cache)), g.op("MatMul", here, new))


def _expand(g: _Writer, node: ir.Node) -> ir.Value | None:
    """Rewrite an Expand as a product with ones, along the axes that grow."""
    x = _inputs(node)[0]
    if x.dtype is None or not x.dtype.is_floating_point():
        return None
    wide = _shape(node.outputs[0])
    narrow = (1,) * (len(wide) - len(_shape(x))) + _shape(x)
    ones = np.ones([1 if a == b else b for a, b in zip(narrow, wide, strict=True)], x.dtype.numpy())
    return g.op("Mul", x, g.constant(ones))


def _layer_norm(g: _Writer, node: ir.Node) -> ir.Value | None:
    """Rewrite a layer norm with basic operators, in the form that ONNX Runtime and QNN recognize and fuse
    into one operator.
    """
    x, weight, *bias = _inputs(node)
    if node.attributes.get_int("axis", -1) % len(_shape(x)) != len(_shape(x)) - 1:
        return None
    last = g.constant(np.array([-1]))
    centred = g.op("Sub", x, g.op("ReduceMean", x, last))
    variance = g.op("ReduceMean", g.op("Pow", centred, g.number(2, x)), last)
    epsilon = g.number(node.attributes.get_float("epsilon", 1e-5), x)
    y = g.op("Mul", g.op("Div", centred, g.op("Sqrt", g.op("Add", variance, epsilon))), weight)
    return g.op("Add", y, bias[0]) if bias else y


COMPARISONS: dict[str, Callable[[_Writer, ir.Node], ir.Value | None]] = {
    "Equal": lambda g, node: g.equal(*_inputs(node)),
    "Greater": lambda g, node: _below(g, *reversed(_inputs(node))),
    "GreaterOrEqual": lambda g, node: _at_most(g, *reversed(_inputs(node))),
    "Less": lambda g, node: _below(g, *_inputs(node)),
    "LessOrEqual": lambda g, node: _at_most(g, *_inputs(node)),
}
CHOICES = COMPARISONS | {
    "And": lambda g, node: g.op("Mul", *_inputs(node)),
    "Not": lambda g, node: g.inverse(_inputs(node)[0]),
    "Or": lambda g, node: g.op("Max", *_inputs(node)),
    "Where": _where,
}
PLACES: dict[str, Callable[[_Writer, ir.Node], ir.Value | None]] = {
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "LayerNormalization": _layer_norm,
    "ScatterElements": _scatter_elements,
}
