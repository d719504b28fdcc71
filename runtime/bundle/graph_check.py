"""Check a bundle's graph before ONNX Runtime reads it.

A graph is a program, and a hash stored beside the graph doesn't prove who wrote it. So a graph must have
exactly the form that an export writes:

    operators     only operators of OPERATORS; no functions and no graphs inside nodes, so a graph contains
                  no loop and runs long only on large data
    order         every input of a node is computed before the node, and each value is computed once, so
                  the graph has no cycles
    ports         the inputs and outputs have the names and types that `graph_io` gives
    weights       each stored tensor has the type, shape and place in model.onnx.data that the manifest
                  states, or another shape (`runtime.bundle.views`); numbers inside the graph take as many
                  bytes as their shape implies
    texts         UTF-8
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from ...refimpl.errors import BundleError
from .graph_io import Graph, Port
from .manifest import AGAIN
from .operators import OPERATORS
from .plan import Tensor
from .protobuf import Field, Schema, read
from .same_bits import Operator
from .views import place, stored_name

NODES = 2**18
LAST_VERSION = 64  # of an operator set; ONNX Runtime says which ones it has

# Of onnx.proto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto: the fields that an export writes.
MODEL = Schema(
    {
        1: Field("ir_version", "number"),
        2: Field("producer_name", "text"),
        7: Field("graph", "message"),
        8: Field("opset_import", "message", many=True),
        14: Field("metadata_props", "message", many=True),
    }
)
OPSET = Schema({1: Field("domain", "text"), 2: Field("version", "number")})
GRAPH = Schema(
    {
        1: Field("node", "message", many=True),
        2: Field("name", "text"),
        5: Field("initializer", "message", many=True),
        11: Field("input", "message", many=True),
        12: Field("output", "message", many=True),
        13: Field("value_info", "message", many=True),
    }
)
NODE = Schema(
    {
        1: Field("input", "text", many=True),
        2: Field("output", "text", many=True),
        3: Field("name", "text"),
        4: Field("op_type", "text"),
        5: Field("attribute", "message", many=True),
        7: Field("domain", "text"),
    }
)
ATTRIBUTE = Schema(
    {
        1: Field("name", "text"),
        2: Field("f", "float"),
        3: Field("i", "number"),
        4: Field("s", "text"),
        5: Field("t", "message"),
        7: Field("floats", "float", many=True),
        8: Field("ints", "number", many=True),
        20: Field("type", "number"),
    }
)
TENSOR = Schema(
    {
        1: Field("dims", "number", many=True),
        2: Field("data_type", "number"),
        8: Field("name", "text"),
        9: Field("raw_data", "bytes"),
        13: Field("external_data", "message", many=True),
        14: Field("data_location", "number"),
    }
)
ENTRY = Schema({1: Field("key", "text"), 2: Field("value", "text")})
VALUE = Schema({1: Field("name", "text"), 2: Field("type", "message"), 3: Field("doc_string", "text")})
TYPE = Schema({1: Field("tensor_type", "message")})
TENSOR_TYPE = Schema({1: Field("elem_type", "number"), 2: Field("shape", "message")})
SHAPE = Schema({1: Field("dim", "message", many=True)})
DIM = Schema({1: Field("dim_value", "number"), 2: Field("dim_param", "text")})

# TensorProto.DataType, and the bits of one element.
TYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int32": 6, "int64": 7, "bool": 9, "float16": 10,
    "float64": 11, "uint4": 21, "int4": 22,
}  # fmt: skip
BITS = {1: 32, 2: 8, 3: 8, 4: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 21: 4, 22: 4}
EXTERNAL = 1  # TensorProto.DataLocation
# Integers in a graph are sizes, axes and ids; the largest number of 64 bits means "to the end".
LARGEST, TO_THE_END = 2**31, 2**63 - 1


# The operators of each set.
Sets = Mapping[str, Collection[str]]


class Weights(NamedTuple):
    """The stored tensors that a bundle's graphs read, and the file that contains them."""

    file: str
    tensors: Mapping[str, Tensor]


def check_graph(
    data: bytes,
    graph: Graph,
    weights: Weights,
    dtype: str,
    where: str,
    operators: Sets = OPERATORS,
) -> set[Operator]:
    """Check that an export can have written the graph whose bytes are `data`, and return the operators of its
    nodes.

    Raises BundleError, with `where` in its message, if no export can have written this graph. `weights`
    describes all stored tensors of the bundle, and `dtype` is the bundle's float type.
    """
    owned = {name: tensor for name, tensor in weights.tensors.items() if graph.owns(name)}
    try:
        check = _Check(data, graph, Weights(weights.file, owned), dtype, operators)
        check.model()
    except ValueError as error:  # UnicodeDecodeError too
        raise BundleError(f"{where}: isn't a graph that an export writes: {error!s:.200}; {AGAIN}") from None
    return check.used


class _Check:
    """The check of one graph file. Each method raises ValueError if the graph breaks a rule."""

    def __init__(self, data: bytes, graph: Graph, weights: Weights, dtype: str, operators: Sets) -> None:
        self.data, self.graph, self.dtype, self.operators = data, graph, dtype, operators
        self.file, self.tensors = weights
        self.imported: set[str] = set()
        self.known: set[str] = set()  # values that were made so far
        self.read: set[str] = set()  # tensors of the manifest
        self.used: set[Operator] = set()
        # Most attributes and declared types are equal to others, and looked at once.
        self.attributes: set[bytes] = set()
        self.types: dict[bytes, tuple[int, tuple[str | int, ...]]] = {}

    def model(self) -> None:
        model = read(self.data, MODEL, (0, len(self.data)))
        for span in model["opset_import"]:
            opset = read(self.data, OPSET, span)
            domain, version = opset["domain"] or "", opset["version"] or 0
            if domain not in self.operators or not 1 <= version <= LAST_VERSION:
                raise ValueError(
                    f"the graph uses the operator set {domain!r:.80} of version {version}, which tfm "
                    "doesn't write"
                )
            self.imported.add(domain)
        for span in model["metadata_props"]:
            read(self.data, ENTRY, span)
        if model["graph"] is None:
            raise ValueError("the file contains no graph")
        content = read(self.data, GRAPH, model["graph"])
        self.ports(content["input"], self.graph.inputs, 3)
        self.known.update(port.name for port in self.graph.inputs)
        for span in content["initializer"]:
            self.add(self.tensor(span))
        if missing := self.tensors.keys() - self.read:
            raise ValueError(f"the graph doesn't read the tensor {min(missing)}, which tfm.json lists")
        if len(content["node"]) > NODES:
            raise ValueError(f"the graph may have at most {NODES} nodes, but it has {len(content['node'])}")
        for span in content["node"]:
            self.node(span)
        for span in content["value_info"]:
            self.value(span)
        self.ports(content["output"], self.graph.outputs, 2)  # its axes are for ONNX Runtime to find
        if lost := [port.name for port in self.graph.outputs if port.name not in self.known]:
            raise ValueError(f"no node computes the output {lost[0]}")

    def add(self, name: str | None) -> None:
        if not name or name in self.known:
            raise ValueError(f"each value must have its own name, but {name!r:.80} is empty or occurs twice")
        self.known.add(name)

    def ports(self, spans: list[tuple[int, int]], ports: tuple[Port, ...], count: int) -> None:
        """Check that the graph declares exactly these inputs or outputs, in this order. Of name, type and
        axes, the first `count` are compared.
        """
        what = "output" if ports is self.graph.outputs else "input"
        for port, span in zip(ports, spans, strict=False):
            float_type = "float32" if port.name in ("logits", "predictions") else self.dtype
            wanted = (port.name, TYPES[port.dtype or float_type], port.axes)
            value = self.value(span)
            if value[:count] != wanted[:count]:
                raise ValueError(f"an {what} must have name, type and axes {wanted}, got {value!s:.80}")
        if len(spans) != len(ports):
            raise ValueError(f"the graph must have {len(ports)} {what}s, but it has {len(spans)}")

    def value(self, span: tuple[int, int]) -> tuple[str, int, tuple[str | int, ...]]:
        """Return the name, element type and axes of a tensor that the graph declares."""
        value = read(self.data, VALUE, span)
        begin, end = value["type"] or (0, 0)
        stated = self.data[begin:end]
        if stated not in self.types:
            kind = read(self.data, TYPE, (begin, end))
            tensor = read(self.data, TENSOR_TYPE, kind["tensor_type"] or (0, 0))
            dims = [
                read(self.data, DIM, dim) for dim in read(self.data, SHAPE, tensor["shape"] or (0, 0))["dim"]
            ]
            axes = tuple(dim["dim_param"] if dim["dim_value"] is None else dim["dim_value"] for dim in dims)
            self.types[stated] = (tensor["elem_type"] or 0, axes)
        return (value["name"] or "", *self.types[stated])

    def node(self, span: tuple[int, int]) -> None:
        node = read(self.data, NODE, span)
        domain, operator = node["domain"] or "", node["op_type"] or ""
        if domain not in self.imported or operator not in self.operators[domain]:
            raise ValueError(
                f"the graph uses the operator {f'{domain}.{operator}'.lstrip('.')!r:.120}, which tfm "
                "doesn't write"
            )
        self.used.add((domain, operator))
        for name in node["input"]:
            if name and name not in self.known:
                raise ValueError(f"{operator} reads {name!r:.80}, which no earlier node computes")
        for name in node["output"]:
            if name:  # an output that nobody reads may have none
                self.add(name)
        for begin, end in node["attribute"]:
            stated = self.data[begin:end]
            if operator.startswith("Scatter") and b"reduction" in stated and b"none" not in stated:
                self.used.add((domain, f"{operator} with a reduction"))
            if operator == "Split" and b"num_outputs" in stated:
                self.parts(len(node["output"]), (begin, end))
            if stated not in self.attributes:
                self.attribute((begin, end))
                self.attributes.add(stated)

    def parts(self, count: int, span: tuple[int, int]) -> None:
        """Check that a Split node has as many outputs as its attribute num_outputs states. ONNX Runtime
        crashes on a Split with more outputs.
        """
        if (stated := read(self.data, ATTRIBUTE, span)["i"]) != count:
            raise ValueError(f"a Split node with {count} outputs must have num_outputs {count}, got {stated}")

    def attribute(self, span: tuple[int, int]) -> None:
        value = read(self.data, ATTRIBUTE, span)
        _check_integers(value["name"], [*value["ints"], value["i"] or 0])
        if value["t"] is not None:
            self.tensor(value["t"])

    def tensor(self, span: tuple[int, int]) -> str | None:
        """Check a tensor of the graph and return its name.

        The tensor must be a tensor of the manifest, at the place that the manifest states, or lie in the
        graph itself.
        """
        tensor = read(self.data, TENSOR, span)
        name, kind, shape = tensor["name"], tensor["data_type"] or 0, tuple(tensor["dims"])
        if len(shape) > 8:
            raise ValueError(f"tensor {name!r:.80} may have at most 8 axes, but it has {len(shape)}")
        if tensor["data_location"] != EXTERNAL:
            bits = BITS.get(kind)
            content = tensor["raw_data"] or b""
            size = len(content)
            if bits is None or tensor["external_data"] or -(-math.prod(shape) * bits // 8) != size:
                raise ValueError(
                    f"tensor {name!r:.80} of type {kind} and shape {shape!s:.80} can't have {size} bytes"
                )
            if kind == TYPES["int64"]:
                _check_integers(name, np.frombuffer(content, "<u8").tolist())
            return name
        entries = [read(self.data, ENTRY, entry) for entry in tensor["external_data"]]
        found = {entry["key"]: entry["value"] for entry in entries}
        stated, base = place(name or "", self.tensors), stored_name(name or "", self.tensors)
        if stated is None or base is None:
            raise ValueError(f"tfm.json doesn't list the tensor {name!r:.80} for this graph")
        wanted = {"location": self.file, "offset": str(stated.offset), "length": str(stated.length)}
        if len(entries) != len(wanted) or found != wanted or tensor["raw_data"] is not None:
            raise ValueError(f"tensor {name} must be stored at {wanted}, got {found!s:.120}")
        if (kind, shape) != (TYPES[stated.dtype], stated.shape):
            raise ValueError(
                f"tensor {name} must be {stated.dtype} {list(stated.shape)}, got type {kind} {shape!s:.80}"
            )
        self.read.add(base)
        return name


def _check_integers(name: str | None, values: list[int]) -> None:
    """Raise ValueError if an integer, read as 64 bits without a sign, is too large to be a size, an axis or
    an id.
    """
    for value in values:
        if min(value, 2**64 - value) > LARGEST and value != TO_THE_END:
            raise ValueError(f"the integers of {name!r:.80} may be at most {LARGEST}, got {value}")
