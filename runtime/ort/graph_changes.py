"""Change a graph directly in the bytes of a model.onnx, without a package that reads ONNX."""

from __future__ import annotations

from collections.abc import Iterable

from ..bundle.graph_check import ATTRIBUTE, GRAPH, MODEL, NODE
from ..bundle.protobuf import read

INTEGER = 3 << 3  # the tag of an attribute's integer: field 3, kind 0
GRAPH_OF_MODEL, OUTPUT, NAME = 7, 12, 1  # fields of a model, of its graph, and of a value there


def set_integer(model: bytes, attribute: str, value: int) -> bytes:
    """Return the model with an integer attribute set to another value, in all nodes that have this attribute.

    `check_graph` must have accepted the model. The old and new values must be below 128, so that each
    takes one byte.
    """
    changed = bytearray(model)
    graph = read(model, GRAPH, read(model, MODEL, (0, len(model)))["graph"])
    for node in graph["node"]:
        for begin, end in read(model, NODE, node)["attribute"]:
            stated = read(model, ATTRIBUTE, (begin, end))
            if stated["name"] == attribute and stated["i"] in range(128):
                changed[model.index(bytes([INTEGER, stated["i"]]), begin, end) + 1] = value
    return bytes(changed)


def with_outputs(model: bytes, names: Iterable[str]) -> bytes:
    """Return the model with these values as additional outputs of its graph.

    In the format of protocol buffers, bytes appended to a message are further fields of this message. So
    the function appends a second graph that contains only outputs.
    """
    outputs = (_message(OUTPUT, _message(NAME, name.encode())) for name in names)
    return model + _message(GRAPH_OF_MODEL, b"".join(outputs))


def _message(field: int, content: bytes) -> bytes:
    """Return the bytes of a field that contains a message: its tag, its length with 7 bits in each byte, and
    its content.
    """
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([field << 3 | 2]) + length + bytes([size]) + content
