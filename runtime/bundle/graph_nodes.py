"""Read the nodes of a graph in order, their attributes, and the numbers that the graph itself contains.

`graph_check` must have accepted the graph's bytes before.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .graph_check import ATTRIBUTE, EXTERNAL, GRAPH, MODEL, NODE, TENSOR, TYPES
from .protobuf import read

if TYPE_CHECKING:
    from numpy import ndarray as Array

# Of onnx.proto's AttributeProto.AttributeType: the field that holds each.
HELD = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}
NUMPY = {number: np.dtype(name) for name, number in TYPES.items() if name not in ("int4", "uint4")}


class Node(NamedTuple):
    """A node of a graph. An unused input has an empty name.

    `attributes` contains numbers, texts and lists of numbers, but only for attributes that the file
    states. Every other attribute has the operator's default.
    """

    operator: str
    domain: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


class Content(NamedTuple):
    """The nodes of a graph, and a dict from names to the arrays that the graph itself contains."""

    nodes: list[Node]
    numbers: dict[str, Array]


def content(data: bytes) -> Content:
    """Read the nodes of a graph's file and the numbers in it. Raises ValueError for bytes that `graph_check`
    would refuse.
    """
    graph = read(data, GRAPH, read(data, MODEL, (0, len(data)))["graph"])
    numbers: dict[str, Array] = {}
    for span in graph["initializer"]:
        _add(numbers, None, data, span)
    nodes: list[Node] = []
    known: dict[bytes, tuple[str, Any]] = {}  # most attributes are equal to others
    for span in graph["node"]:
        node = read(data, NODE, span)
        attributes = dict(_attribute(data, span, known) for span in node["attribute"])
        if node["op_type"] == "Constant":
            _add(numbers, node["output"][0], data, attributes["value"])
        else:
            nodes.append(
                Node(node["op_type"], node["domain"] or "", node["input"], node["output"], attributes)
            )
    return Content(nodes, numbers)


def _add(numbers: dict[str, Array], name: str | None, data: bytes, span: tuple[int, int]) -> None:
    """Add the numbers of a tensor inside the graph to `numbers`, under `name` or else under the tensor's own
    name.
    """
    tensor = read(data, TENSOR, span)
    if tensor["data_location"] == EXTERNAL or tensor["data_type"] not in NUMPY:
        return
    values = np.frombuffer(tensor["raw_data"] or b"", NUMPY[tensor["data_type"]])
    numbers[name or tensor["name"]] = values.reshape([_signed(size) for size in tensor["dims"]])


def _attribute(data: bytes, span: tuple[int, int], known: dict[bytes, tuple[str, Any]]) -> tuple[str, Any]:
    """Return an attribute's name and value. For a tensor, the value is the offsets of the tensor in the
    file.
    """
    stated = data[slice(*span)]
    if stated not in known:
        fields = read(data, ATTRIBUTE, span)
        held = HELD[fields["type"]]
        value = fields[held]
        match held:
            case "f":
                value = _float(data, value)
            case "floats":
                value = [_float(data, one) for one in value]
            case "i":
                value = _signed(value or 0)
            case "ints":
                value = [_signed(one) for one in value]
            case _:
                pass
        known[stated] = fields["name"], value
    return known[stated]


def _float(data: bytes, span: tuple[int, int] | None) -> float:
    return 0.0 if span is None else struct.unpack("<f", data[slice(*span)])[0]


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
