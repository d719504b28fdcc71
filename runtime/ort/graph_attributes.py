"""An attribute of a graph's nodes, set in the bytes of a model.onnx.

Running a bundle needs no package that reads ONNX. A protobuf message is a row of fields: a key, which is
8 · number + type, then by type a varint (0), eight bytes (1), a length and as many bytes (2), or four bytes
(5). The numbers below are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...refimpl.errors import BundleError

__all__ = ["set_integer"]

# Message -> the number of a field -> the message in it. An attribute holds the graph of a branch or a loop.
MESSAGES = {"model": {7: "graph"}, "graph": {1: "node"}, "node": {5: "attribute"}, "attribute": {6: "graph"}}
NAME, INTEGER = 1, 3  # fields of an attribute


def set_integer(model: bytes, attribute: str, value: int) -> bytes:
    """The model with an integer attribute, of all nodes that have it, set to another value.

    The old value and the new one are below 128, so that they take one byte each. BundleError for bytes that
    aren't a model, or an attribute that isn't such an integer.
    """
    changed = bytearray(model)
    unread = [("model", 0, len(model))]
    while unread:
        message, start, end = unread.pop()
        fields = list(_fields(model, start, end))
        unread += [(MESSAGES[message][n], a, b) for n, a, b in fields if n in MESSAGES[message]]
        if message == "attribute" and (NAME, attribute.encode()) in ((n, model[a:b]) for n, a, b in fields):
            for number, a, b in fields:
                if number == INTEGER:
                    if b != a + 1:
                        raise BundleError(f"the graph's {attribute} must be an integer below 128")
                    changed[a] = value
    return bytes(changed)


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The number of each field of the message from `start` to `end`, and where its value begins and ends."""
    at = start
    while at < end:
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                after = _varint(data, at)[1]
            case 1:
                after = at + 8
            case 2:
                length, at = _varint(data, at)
                after = at + length
            case 5:
                after = at + 4
            case wire_type:
                raise BundleError(f"the graph must be an ONNX model, got a field of type {wire_type}")
        if after > end:
            raise BundleError("the graph must be an ONNX model, a field in it ends after its message")
        yield key >> 3, at, after
        at = after


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where it ends."""
    number = 0
    for i, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * i
        if byte < 128:
            return number, at + i + 1
    raise BundleError("the graph must be an ONNX model, a number in it has no end")
