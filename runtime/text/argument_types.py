"""Find the JSON types that a function's schema allows for an argument. These types decide whether an unquoted
value is a text or a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]
MOST_REFERENCES = 16
WORDS = {"t": "boolean", "f": "boolean", "n": "null", '"': "string", "{": "object", "[": "array"}


def types_of_property(schema: Schema, key: str) -> frozenset[str] | None:
    """Return the types of an argument, or None if any type is allowed."""
    properties = resolved(schema, schema).get("properties")
    stated = properties.get(key) if isinstance(properties, Mapping) else None
    return types_of(stated, schema) if isinstance(stated, Mapping) else None


def types_of(part: Schema, schema: Schema, seen: set[str] | None = None) -> frozenset[str] | None:
    """Return the JSON types that a part of a schema allows, or None if the part allows any type.

    Each reference is followed only once; `seen` are the references already followed.
    """
    seen = set() if seen is None else seen
    if isinstance(reference := part.get("$ref"), str):
        if reference in seen:
            return frozenset()
        seen.add(reference)
        part = resolved(part, schema)
    match part:
        case {"type": str(name)}:
            return frozenset({name})
        case {"type": [*names]}:
            return frozenset(map(str, names))
        case {"enum": [*values]}:
            return frozenset().union(*map(type_of, values))
        case {"const": value}:
            return type_of(value)
    for word in ("anyOf", "oneOf"):
        if isinstance(parts := part.get(word), list):
            types = [types_of(each, schema, seen) for each in parts if isinstance(each, Mapping)]
            known = [each for each in types if each is not None]
            return frozenset().union(*known) if len(known) == len(parts) else None
    return None


def resolved(part: Schema, schema: Schema) -> Schema:
    """Follow the reference of a part of the schema, and return the part that it refers to. A part without a
    reference is returned unchanged.
    """
    for _ in range(MOST_REFERENCES):
        reference = part.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            break
        found: Any = schema
        for step in filter(None, reference[1:].split("/")):
            found = found.get(step) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            break
        part = found
    return part


def type_of(value: object) -> frozenset[str]:
    """Return the types of a value, by their names in JSON schemas."""
    match value:
        case bool():
            return frozenset({"boolean"})
        case int():
            return frozenset({"integer", "number"})
        case float():
            return frozenset({"number"})
        case str():
            return frozenset({"string"})
        case None:
            return frozenset({"null"})
    return frozenset({"array" if isinstance(value, list) else "object"})


def type_of_json(text: str) -> frozenset[str]:
    """Return the types of a value that is given as JSON text."""
    if text[0] in WORDS:
        return frozenset({WORDS[text[0]]})
    return frozenset({"number"} if set(text) & set(".eE") else {"integer", "number"})
