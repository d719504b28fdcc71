"""Read the wire format of protocol buffers, as far as a graph uses it: messages with known fields.

A message is a sequence of fields. Each field begins with a number, 8 · field + kind. After kind 0 comes a
number with 7 bits in each byte. After kinds 1 and 5 come 8 and 4 bytes. After kind 2 come a length and
then that many bytes, which are a text or a message. The reader is strict. It refuses an unknown field, a
second value of a field that may occur once, and a field that ends beyond its message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

Kind = Literal["number", "text", "bytes", "float", "message"]
KINDS: dict[Kind, int] = {"number": 0, "text": 2, "bytes": 2, "float": 5, "message": 2}


class Field(NamedTuple):
    """A field that a message may contain. If `many` is set, the field may occur any number of times."""

    name: str
    kind: Kind
    many: bool = False


class Schema:
    """The fields that a message may contain, by field number."""

    def __init__(self, fields: Mapping[int, Field]) -> None:
        self.by_tag = {number << 3 | KINDS[field.kind]: field for number, field in fields.items()}
        self.empty: dict[str, Any] = dict.fromkeys(field.name for field in fields.values())
        self.many = [field.name for field in fields.values() if field.many]


def read(data: bytes, schema: Schema, span: tuple[int, int]) -> dict[str, Any]:
    """Read the message between two offsets of `data`, and return a dict from field names to values.

    A value is an integer, a text or bytes. For a message or a float, the value is its (begin, end)
    offsets. A missing field is None, or an empty list if it may occur many times. Raises ValueError for a
    field that the schema doesn't allow.
    """
    values = schema.empty.copy()
    for name in schema.many:
        values[name] = []
    by_tag = schema.by_tag
    for tag, begin, end in _fields(data, *span):
        field = by_tag.get(tag)
        if field is None:
            raise ValueError(f"tfm doesn't write protobuf field {tag >> 3} of wire type {tag & 7}")
        if field.kind == "text":
            value: Any = data[begin:end].decode("utf-8")
        elif field.kind == "bytes":
            value = data[begin:end]
        else:
            value = begin if field.kind == "number" else (begin, end)
        if field.many:
            values[field.name].append(value)
        elif values[field.name] is None:
            values[field.name] = value
        else:
            raise ValueError(f"protobuf field {field.name} may occur only once")
    return values


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the tag of each field, and then a number and 0, or the begin and end of the field's bytes."""
    while at < end:
        tag, at = data[at], at + 1  # most numbers have one byte
        if tag > 127:
            tag, at = _number(data, at - 1, end)
        kind = tag & 7
        if kind == 2:
            if at < end and data[at] < 128:
                size, at = data[at], at + 1
            else:
                size, at = _number(data, at, end)
        elif kind == 0:
            value, at = _number(data, at, end)
            yield tag, value, 0
            continue
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a protobuf field must have wire type 0, 1, 2 or 5, got {kind}")
        if size > end - at:
            raise ValueError(f"a protobuf field needs {size} bytes, but only {end - at} bytes follow")
        yield tag, at, at + size
        at += size


def _number(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the number at an offset and the offset at which it ends."""
    if at < end and data[at] < 128:
        return data[at], at + 1
    value = 0
    for i in range(min(10, end - at)):
        byte = data[at + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise ValueError("a protobuf number must end within 10 bytes and within its message")
