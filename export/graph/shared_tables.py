"""Let a table lookup and a product read the same table from one initializer.

    GatherBlockQuantized(packed, ids, scale, zero?)
        ->  (Gather(blocks, ids) - Gather(zero, ids)) * Gather(scale, ids)

`blocks` is the table in the shape that MatMulNBits takes, [N, C, blob]. GatherBlockQuantized only takes [N,
C·blob]. In a bundle, both shapes have the same bytes (`runtime.bundle.views`), but ONNX Runtime's own file
format would store them twice, once for each initializer. The new nodes compute the same numbers to the bit.

**Conventions**: a byte contains two codes of 4 bits, the lower one first. The codes are separated by
floating-point arithmetic, which every runtime supports. Without zero points, the middle code means 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience

from ...runtime.bundle.plan import Tensor
from ...runtime.bundle.views import stored_name
from ...runtime.bundle.weight_storage import Group
from . import describe

Axis = int | str | ir.SymbolicDim


def read_once(model: ir.Model, groups: Mapping[str, Group], tensors: Mapping[str, Tensor]) -> ir.Model:
    """Return a graph in which each table has only one shape. If no table had two shapes, this is the given
    graph; otherwise it is a copy.

    Needs: `value_info` of all values. Ensures: an initializer for each stored tensor.
    """
    if not _shared(model.graph, tensors):
        return model
    copy = ir.from_proto(ir.to_proto(model))
    for node, blocks in _shared(copy.graph, tensors):
        table = _table(node)
        _look_up(copy.graph, node, blocks)
        copy.graph.initializers.pop(str(table), None)
    describe.name_nodes(copy, groups, tensors)
    return copy


def _shared(graph: ir.Graph, tensors: Mapping[str, Tensor]) -> list[tuple[ir.Node, ir.Value]]:
    """Return the nodes that look up rows in a table that a product reads too, each with the product's view of
    the table.
    """
    products = {
        stored_name(str(node.inputs[1].name), tensors): node.inputs[1]
        for node in graph
        if node.op_type == "MatMulNBits" and node.inputs[1] is not None
    }
    return [(node, products[table]) for node in graph if (table := _table(node)) in products]


def _table(node: ir.Node) -> str | None:
    """Return the name of the stored table in which a node looks up rows. Return None if the node has another
    operator.
    """
    table = node.inputs[0] if node.op_type == "GatherBlockQuantized" else None
    return None if table is None else table.name


def _look_up(graph: ir.Graph, node: ir.Node, blocks: ir.Value) -> None:
    """Replace a lookup in a table by arithmetic over the blocks that a product reads."""
    ids, scale, zero = [*node.inputs[1:], None][:3]
    (found,) = node.outputs
    assert ids is not None
    assert ids.shape is not None
    assert scale is not None
    assert scale.shape is not None
    assert scale.dtype is not None
    bits, block = (node.attributes[name].as_int() for name in ("bits", "block_size"))
    count, places = scale.shape[1], tuple(ids.shape)
    assert isinstance(count, int)
    rows = _Rows(graph, scale.dtype)
    codes = rows.codes(rows.gather(blocks, ids), bits)
    if zero is None:
        middle = rows.constant(2.0 ** (bits - 1))
    else:
        zeros = rows.codes(rows.gather(zero, ids), bits)
        assert zeros.shape is not None
        if zeros.shape[-1] != count:  # a byte that is filled up
            ends = [rows.constant(end) for end in ([0], [count], [-1])]
            zeros = rows.node("Slice", [zeros, *ends], (*places, count))
        middle = rows.column(zeros)
    centred = rows.node("Sub", [codes, middle], (*places, count, block))
    scaled = rows.node("Mul", [centred, rows.column(rows.gather(scale, ids))], (*places, count, block))
    rows.reshape(scaled, *places, count * block)
    convenience.replace_nodes_and_values(
        graph, node, [node], rows.nodes, [found], [rows.nodes[-1].outputs[0]]
    )


class _Rows:
    """A list of new nodes that compute with rows of tables, [B, T, ...]. Each method adds the nodes of one
    computation and returns their result.
    """

    def __init__(self, graph: ir.Graph, floats: ir.DataType) -> None:
        self.graph, self.floats = graph, floats
        self.nodes: list[ir.Node] = []

    def node(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        shape: Sequence[Axis],
        dtype: ir.DataType | None = None,
        **attributes: int,
    ) -> ir.Value:
        """Add a node, and return its output. Without a `dtype`, the output has the table's float type."""
        self.nodes.append(ir.node(operator, inputs, attributes))
        (value,) = self.nodes[-1].outputs
        value.name = f"rows.{id(value)}"  # until the graph's nodes are named
        value.type, value.shape = ir.TensorType(dtype or self.floats), ir.Shape(shape)
        return value

    def gather(self, table: ir.Value, ids: ir.Value) -> ir.Value:
        """Add a Gather, and return the rows of a table with these ids."""
        assert table.shape is not None
        assert ids.shape is not None
        return self.node("Gather", [table, ids], (*ids.shape, *table.shape[1:]), table.dtype, axis=0)

    def codes(self, packed: ir.Value, bits: int) -> ir.Value:
        """Add nodes that unpack codes of `bits` bits, and return the codes as floats. The last axis contains
        all codes of the packed bytes.
        """
        assert packed.shape is not None
        *places, count = shape = tuple(packed.shape)
        assert isinstance(count, int)
        x = self.node("Cast", [packed], shape, to=int(self.floats))
        if bits == 8:
            return x
        high = self.node("Floor", [self.node("Mul", [x, self.constant(1 / 16)], shape)], shape)
        low = self.node("Sub", [x, self.node("Mul", [high, self.constant(16.0)], shape)], shape)
        pairs = self.node("Concat", [self.column(low), self.column(high)], (*places, count, 2), axis=-1)
        return self.reshape(pairs, *places, 2 * count)

    def column(self, x: ir.Value) -> ir.Value:
        """Add an axis of length 1 at the end, and return the result."""
        assert x.shape is not None
        return self.node("Unsqueeze", [x, self.constant([-1])], (*x.shape, 1))

    def reshape(self, x: ir.Value, *shape: Axis) -> ir.Value:
        """Join the last axes into one, and return the result. The axes before them stay unchanged."""
        assert isinstance(shape[-1], int)
        return self.node("Reshape", [x, self.constant([*[0] * (len(shape) - 1), shape[-1]])], shape)

    def constant(self, value: float | list[int]) -> ir.Value:
        """Add a constant to the graph, and return it: a float, or a list of sizes or axes."""
        dtype = np.int64 if isinstance(value, list) else self.floats.numpy()
        name = f"rows.{value}"
        if name not in self.graph.initializers:
            tensor = ir.tensor(np.array(value, dtype), name=name)
            self.graph.register_initializer(ir.Value(name=name, const_value=tensor))
        return self.graph.initializers[name]
