"""An attribute of a graph's nodes, set in the bytes of a model.onnx, without a package that reads ONNX."""

from __future__ import annotations

from ..bundle.graph_check import ATTRIBUTE, GRAPH, MODEL, NODE
from ..bundle.protobuf import read

INTEGER = 3 << 3  # the tag of an attribute's integer: field 3, kind 0


def set_integer(model: bytes, attribute: str, value: int) -> bytes:
    """The model with an integer attribute, of all nodes that have it, set to another value.

    The model must have passed `check_graph`. Old and new values are below 128, so that each takes one byte.
    """
    changed = bytearray(model)
    graph = read(model, GRAPH, read(model, MODEL, (0, len(model)))["graph"])
    for node in graph["node"]:
        for begin, end in read(model, NODE, node)["attribute"]:
            stated = read(model, ATTRIBUTE, (begin, end))
            if stated["name"] == attribute and stated["i"] in range(128):
                changed[model.index(bytes([INTEGER, stated["i"]]), begin, end) + 1] = value
    return bytes(changed)
