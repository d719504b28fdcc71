"""JSON schemas drawn at random, with the keywords that people and programs write, the rarer ones rarely.

One object in RARE has `minProperties`, `maxProperties`, `propertyNames`, `dependentRequired` or
`patternProperties`, one array in RARE `uniqueItems` or `contains`, and one choice in RARE is a `not`, an `if`
or a `oneOf` whose parts may overlap. So about 1 schema in 100 has each of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

RARE = 40
DEPTH = 3
PATTERNS = ["^a+b?$", "^[0-9]{2,3}$", "^(x|yz)$", "ab", "^[A-Z]", "^[0-9]{4}-[0-9]{2}$", "^[^ ]*$", "c$"]
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "uri", "duration", "hostname"]
TYPES = ["string", "integer", "number", "boolean", "null"]


def schema(rng: random.Random) -> Schema:
    """A schema; `$defs` has what its references name."""
    made = _noted(rng, DEPTH)
    if "$ref" in keywords(made):
        tree = {
            "type": "object",
            "properties": {
                "value": _number(rng),
                "more": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 3},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
        made["$defs"] = {"leaf": _string(rng), "tree": tree}
    return made


def keywords(made: Any) -> set[str]:
    """The keywords of a schema and of those in it."""
    return {name for one in _walk(made) for name in one}


def _walk(made: Any) -> Iterator[Schema]:
    if not isinstance(made, dict):
        return
    yield made
    for name, value in made.items():
        if name in ("properties", "patternProperties", "$defs"):
            for inner in value.values():
                yield from _walk(inner)
        elif name in ("anyOf", "oneOf", "allOf", "prefixItems"):
            for inner in value:
                yield from _walk(inner)
        elif name in ("items", "additionalProperties", "not", "if", "then", "contains", "propertyNames"):
            yield from _walk(value)


def _one_in(rng: random.Random, count: int) -> bool:
    return rng.randrange(count) == 0


def _name(rng: random.Random) -> str:
    return "".join(rng.choices('abcdé"\\ -', k=rng.randint(1, 6)))


def _value(rng: random.Random, depth: int = 2) -> Any:
    kind = rng.randrange(7 if depth else 5)
    if kind == 5:
        return [_value(rng, depth - 1) for _ in range(rng.randint(0, 2))]
    if kind == 6:
        return {_name(rng): _value(rng, depth - 1) for _ in range(rng.randint(0, 2))}
    return [_name(rng), rng.randint(-1000, 1000), rng.random() < 0.5, None, round(rng.uniform(-9, 9), 2)][
        kind
    ]


def _values(rng: random.Random) -> list[Any]:
    """Different values."""
    drawn = [_value(rng) for _ in range(rng.randint(1, 4))]
    return list({repr(value): value for value in drawn}.values())


def _string(rng: random.Random) -> Schema:
    made: Schema = {"type": "string"}
    kind = rng.randrange(7)
    if kind == 0:
        made["format"] = rng.choice(FORMATS)
    elif kind < 3:
        made["pattern"] = rng.choice(PATTERNS)
    else:
        least = rng.randint(0, 4)
        made |= {"minLength": least} if rng.random() < 0.4 else {}
        made |= {"maxLength": rng.randint(least, 12)} if rng.random() < 0.6 else {}
    return made


def _number(rng: random.Random) -> Schema:
    low = rng.randint(-1000, 1000)
    made: Schema = {"type": rng.choice(["integer", "integer", "number"])}
    if rng.random() < 0.5:
        made[rng.choice(["minimum", "minimum", "exclusiveMinimum"])] = low
    if rng.random() < 0.5:
        made[rng.choice(["maximum", "maximum", "exclusiveMaximum"])] = low + rng.randint(20, 500)
    if _one_in(rng, 8):
        made["multipleOf"] = rng.choice([2, 5, 10])
    return made


def _leaf(rng: random.Random) -> Schema:
    match rng.randrange(10):
        case 0:
            return {"type": rng.choice(["boolean", "null"])}
        case 1:
            return {"type": rng.sample(TYPES, rng.randint(1, 3))}
        case 2:
            return {"enum": _values(rng)}
        case 3:
            return {"const": _value(rng)}
        case 4:
            return {"$ref": rng.choice(["#/$defs/leaf", "#/$defs/tree"])}
        case 5 | 6:
            return _number(rng)
        case _:
            return _string(rng)


def _noted(rng: random.Random, depth: int) -> Schema:
    """A schema, with what says nothing of the documents."""
    notes = {
        "title": _name(rng), "description": _name(rng), "default": _value(rng), "deprecated": True,
        "examples": _values(rng),
    }  # fmt: skip
    kept = {name: value for name, value in notes.items() if _one_in(rng, 4)}
    if depth == 0 or _one_in(rng, 3):
        return {**kept, **_leaf(rng)}
    made = rng.choice([_object, _object, _array, _choice])(rng, depth - 1)
    return {**kept, **made}


def _object(rng: random.Random, depth: int) -> Schema:
    properties = {_name(rng): _noted(rng, depth) for _ in range(rng.randint(0, 4))}
    names = list(properties)
    made: Schema = {"type": "object", "properties": properties}
    if rng.random() < 0.6:
        made["required"] = names[: rng.randint(0, len(names))]
    if (more := rng.choice([False] * 6 + [None, True, "schema"])) is not None:
        made["additionalProperties"] = _noted(rng, 0) if more == "schema" else more
    if _one_in(rng, RARE):
        rare: dict[str, Any] = {
            "minProperties": min(len(names), 1),
            "maxProperties": len(names) + 2,
            "propertyNames": {"maxLength": 20},
            "dependentRequired": {names[0]: names[-1:]} if names else {},
            "patternProperties": {"^x-": _noted(rng, 0)},
        }
        made |= dict([rng.choice(list(rare.items()))])
    return made


def _array(rng: random.Random, depth: int) -> Schema:
    least = rng.randint(0, 2)
    if _one_in(rng, 6):
        first = [_noted(rng, depth) for _ in range(rng.randint(1, 2))]
        made: Schema = {"type": "array", "prefixItems": first, "items": False, "minItems": len(first)}
    else:
        made = {"type": "array", "items": _noted(rng, depth)}
        made |= {"minItems": least} if rng.random() < 0.4 else {}
        made |= {"maxItems": least + rng.randint(0, 3)} if rng.random() < 0.6 else {}
    if _one_in(rng, RARE):
        made |= rng.choice([{"uniqueItems": True}, {"contains": _noted(rng, 0)}])
    return made


def _choice(rng: random.Random, depth: int) -> Schema:
    some = [_noted(rng, depth) for _ in range(rng.randint(1, 3))]
    if _one_in(rng, RARE):
        return rng.choice([{"oneOf": some}, {**some[0], "not": {"const": "no"}}, {"if": some[0], "then": {}}])
    match rng.randrange(4):
        case 0:  # kinds that no document is of at once
            return {"oneOf": [_string(rng), _number(rng), {"type": "null"}]}
        case 1:
            return {"allOf": [some[0], {"title": _name(rng)}]}
        case _:
            return {"anyOf": some}
