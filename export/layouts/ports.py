"""Change the inputs of a bundle's graph. All layouts use this code for new inputs, rows without gaps, and
tables as weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from ...refimpl.checkpoint.formats.file_bytes import FileBytes
from ...refimpl.errors import BundleError
from ...refimpl.ops.position_tables import position_tables
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.graph_io import GRAPH
from ...runtime.bundle.manifest import CERTIFICATE, DATA
from ...runtime.bundle.views import stored_name
from ..graph import passes
from . import data_file

Branch = Callable[[], Sequence[ir.Value]]
AXES = {"batch": "batch_size", "time": "sequence_length"}


class Ports:
    """A graph of a bundle whose inputs are replaced one by one. `save` adds the new nodes and writes the
    graph.
    """

    def __init__(self, bundle: Bundle, file: str = GRAPH) -> None:
        self._bundle, self._model = bundle, ir.load(bundle.path / file)
        self.graph = self._model.graph
        self.old = {str(value.name): value for value in self.graph.inputs}
        self._new: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._tables: dict[str, np.ndarray] = {}

    def op(self, operator: str, *inputs: ir.Value, outputs: int = 1, **attributes: Any) -> ir.Value:
        """Add a node, and return its last output."""
        self._nodes.append(ir.node(operator, inputs, attributes, num_outputs=outputs))
        return self._nodes[-1].outputs[-1]

    def split(self, value: ir.Value, sizes: list[int]) -> Sequence[ir.Value]:
        """Return the parts of a value with these sizes along its last axis."""
        last = self.op("Split", value, self.constant(sizes), outputs=len(sizes), axis=-1)
        producer = last.producer()
        assert producer is not None
        return producer.outputs

    def copy(self, node: ir.Node, values: Mapping[ir.Value, ir.Value], prefix: str) -> Sequence[ir.Value]:
        """Copy a node of another graph into this graph, and return the copy's outputs. `values` says which
        value replaces each input.

        The names of the node and its outputs get a prefix. Shapes aren't copied, because axes with the same
        name may have different sizes in the two graphs.
        """
        inputs = [None if value is None else values[value] for value in node.inputs]
        new = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            attributes=node.attributes.values(),
            num_outputs=len(node.outputs),
            name=f"{prefix}{node.name}",
        )
        for old, value in zip(node.outputs, new.outputs, strict=True):
            value.name, value.type = f"{prefix}{old.name}", old.type
        self._nodes.append(new)
        return new.outputs

    def choose(self, condition: ir.Value, yes: Branch, no: Branch) -> tuple[ir.Value, ...]:
        """Add an If with two branches, and return its outputs. `yes` adds the nodes for a true condition and
        returns their values; `no` does so for a false one.
        """
        graphs = [self._branch("then_branch", yes), self._branch("else_branch", no)]
        branches = [ir.AttrGraph(str(graph.name), graph) for graph in graphs]
        self._nodes.append(ir.Node("", "If", [condition], branches, num_outputs=len(graphs[0].outputs)))
        return tuple(self._nodes[-1].outputs)

    def _branch(self, name: str, write: Branch) -> ir.Graph:
        """Run a function that adds nodes, and return these nodes as a graph of its own. The new graph may
        read values of the main graph.
        """
        outer, self._nodes = self._nodes, []
        values = write()
        nodes, self._nodes = self._nodes, outer
        _name(nodes, name)
        return ir.Graph([], values, nodes=nodes, name=name)

    def constant(self, value: int | list[int]) -> ir.Value:
        """Return a constant: a whole number, or a list of whole numbers."""
        name = f"ports.{value}"
        if name not in self.graph.initializers:
            tensor = ir.tensor(np.array(value, np.int64), name=name)
            self.graph.register_initializer(ir.Value(name=name, const_value=tensor))
        return self.graph.initializers[name]

    def input(self, name: str, *axes: str | int, dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
        """Add an input to the graph and return it. By default, its type is the int64 of ids and masks."""
        self._new.append(ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(axes)))
        return self._new[-1]

    def length(self, value: ir.Value) -> ir.Value:
        """Return the number of columns of a value (the size of axis 1), as a list of one number."""
        return self.op("Shape", value, start=1, end=2)

    def order(self, is_real: ir.Value, time: ir.Value) -> ir.Value:
        """Return the order [B, T] of each row's tokens: real tokens first, in their order, then padding."""
        zero, one = self.constant(0), self.constant(1)
        places = self.op("Range", zero, self.op("Squeeze", time, self.constant([0])), one)
        # The keys of real tokens are T − i, from T down to 1, those of padding −i: the largest come first.
        keys = self.op("Sub", self.op("Mul", is_real, time), places)
        return self.op("TopK", keys, time, outputs=2, axis=1)

    def grown(self, past: ir.Value, ids: ir.Value) -> ir.Value:
        """Return a copy of a cache with room for the new tokens. A graph that copies its cache writes the new
        tokens there.
        """
        before, size = self.op("Shape", past, start=0, end=2), self.op("Shape", past, start=3, end=4)
        shape = self.op("Concat", before, self.length(ids), size, axis=0)
        assert past.dtype is not None
        zero = ir.tensor([0], dtype=past.dtype)
        return self.op("Concat", past, self.op("ConstantOfShape", shape, value=zero), axis=2)

    def replace(self, name: str, value: ir.Value) -> None:
        """Replace an input of the graph by a new value. If the graph doesn't have this input, nothing
        changes.
        """
        if name in self.old:
            self.old[name].replace_all_uses_with(value)
            self.graph.inputs.remove(self.old[name])

    def replace_tables(self, time: ir.Value | None = None) -> None:
        """Replace the inputs for rotary tables by weights, which cover the model's whole context. With
        `time`, the graph reads only the first `time` rows.
        """
        config = self._bundle.config
        tables = position_tables(np.arange(config.context), config=config)
        for i, rope in enumerate(config.ropes):
            for side, values in zip(("cos", "sin"), tables[rope], strict=True):
                if (name := f"{side}.{i}") not in self.old:
                    continue
                self._tables[name] = values.astype(self._bundle.dtype)
                table = self._weight(name, self.old[name], values.shape)
                axis = self.constant([0])
                self.replace(name, table if time is None else self.op("Slice", table, axis, time, axis))

    def save(self, path: Path, data: str) -> None:
        """Write the graph to `path`. Write the weights that the graph reads, and then the tables, to a file
        `data` beside it."""
        weights, stored = path.parent / data, self._bundle.manifest.tensors
        self._add_nodes()
        common.RemoveUnusedNodesPass()(self._model)
        self._describe()
        read = {stored_name(name, stored) for name in self.graph.initializers}
        if read.issuperset(stored):
            data_file.copy(self._bundle.path / DATA, weights)
            tensors = dict(stored)
        else:
            needed = {name: tensor for name, tensor in stored.items() if name in read}
            tensors = data_file.extract(self._bundle.path / DATA, weights, needed)
        tensors |= data_file.append(weights, self._tables)
        passes.point_weights(self._model, tensors, weights)
        ir.save(self._model, path)

    def _weight(self, name: str, like: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        self.graph.initializers[name] = ir.Value(name=name, type=like.type, shape=ir.Shape(shape))
        return self.graph.initializers[name]

    def _add_nodes(self) -> None:
        """Add the new inputs and nodes to the graph, and give all nodes, values and axes names."""
        _name(self._nodes, "ports")
        self.graph.inputs[:0] = self._new
        self.graph.extend(self._nodes)
        self.graph.sort()
        values = (*self.graph.inputs, *self.graph.outputs, *(v for node in self.graph for v in node.outputs))
        for value in values:
            if value.shape is not None:
                value.shape = ir.Shape([AXES.get(str(axis), axis) for axis in value.shape])

    def _describe(self) -> None:
        """Store the hash of the bundle's certificate in the graph's properties.

        The bundle's own graph can't have this property, because the certificate depends on the graph's
        hash.
        """
        if (certificate := self._bundle.path / CERTIFICATE).exists():
            digest = FileBytes(certificate, BundleError).sha256()
            self._model.metadata_props["certificate_sha256"] = digest


def _name(nodes: Sequence[ir.Node], prefix: str) -> None:
    """Name the nodes and values that have no names yet. The names begin with the prefix."""
    for i, node in enumerate(nodes):
        node.name = node.name or f"{prefix}.{node.op_type}.{i}"
        for output in node.outputs:
            output.name = output.name or f"{node.name}.{output.index()}"
