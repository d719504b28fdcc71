"""Convert a JSON value to the type of an annotation: numbers, texts, tuples, dicts, dataclasses, unions of
them.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal

from ..errors import ConfigError
from .record import Record, kinds

Reader = Callable[[Any, str], Any]
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def read(value: Any, kind: Any, name: str, readers: Mapping[Any, Reader] | None = None) -> Any:
    """Return the value as the type `kind`; ConfigError says at which path from `name` a value has another
    type.

    For a type in `readers`, the reader given there is called. A dataclass is read from an object with its
    fields and no other keys; a field may be absent if its metadata say that it is optional. A `Record` is an
    object whose key `type` names the class; fields that have a default may be absent.
    """
    readers = readers or {}
    if type(value) is kind and kind is not float and kind not in readers:
        return value
    if kind in readers:
        return readers[kind](value, name)
    options = _options(kind)
    if value is None and type(None) in options:
        return None
    for option in options:
        if option in readers:
            return readers[option](value, name)
        origin, arguments = _parts(option)
        if origin is Literal:
            if any(type(value) is type(one) and value == one for one in arguments):
                return value
        elif origin is tuple:
            if isinstance(value, list):
                return tuple(
                    [read(one, arguments[0], f"{name}[{i}]", readers) for i, one in enumerate(value)]
                )
        elif origin is dict:
            if isinstance(value, dict):
                return {
                    key: read(one, arguments[1], f"{name}.{key:.80}", readers) for key, one in value.items()
                }
        elif option is float:
            if isinstance(value, int | float) and type(value) is not bool and abs(value) < 2**128:
                return float(value)
        elif option is Any or type(value) is option:
            return value
    if isinstance(value, dict) and (classes := _classes(options)):
        return _object(value, classes, name, readers)
    raise ConfigError(f"{name} must be {' or '.join(map(_words, options))}, got {value!r:.80}")


def _object(
    value: dict[str, Any], classes: tuple[type, ...], name: str, readers: Mapping[Any, Reader]
) -> Any:
    """The object of one of these classes that a JSON object states."""
    cls = classes[0]
    if issubclass(cls, Record):
        named = {one.__name__: one for one in classes}
        stated = value.get("type")
        if not isinstance(stated, str) or stated not in named:
            raise ConfigError(f"{name}.type must be one of {sorted(named)}, got {stated!r:.80}")
        cls = named[stated]
        value = {key: one for key, one in value.items() if key != "type"}
    hints, optional = _fields(cls)
    if value.keys() != hints.keys() and (
        odd := sorted(value.keys() ^ (hints.keys() - (optional - value.keys())))
    ):
        raise ConfigError(f"{name}.{odd[0]:.80} {'is an unknown field' if odd[0] in value else 'is missing'}")
    return cls(**{key: read(one, hints[key], f"{name}.{key}", readers) for key, one in value.items()})


def _words(option: Any) -> str:
    origin, arguments = _parts(option)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    return WORDS.get(option, "a list" if origin is tuple else "an object")


# A manifest has thousands of values of few types: what is known of a type is found once.


@cache
def _options(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)


@cache
def _parts(option: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type that an annotation is a special case of, if any, and its arguments."""
    return typing.get_origin(option), typing.get_args(option)


@cache
def _dataclasses(options: tuple[Any, ...]) -> tuple[type, ...]:
    return tuple(one for one in options if isinstance(one, type) and is_dataclass(one))


def _classes(options: tuple[Any, ...]) -> tuple[type, ...]:
    """The dataclasses that a value may be of; a `Record` is one once its module is imported."""
    found = _dataclasses(options)
    if len(found) == 1 and not issubclass(found[0], Record):
        return found
    return tuple(kind for one in found for kind in kinds(one))


@cache
def _fields(cls: type) -> tuple[dict[str, Any], set[str]]:
    """The types of a dataclass' fields, and the names of those that may be absent."""
    stated = fields(cls)  # pyright: ignore[reportArgumentType]
    optional = {one.name for one in stated if one.metadata.get("optional")}
    if issubclass(cls, Record):
        optional = {one.name for one in stated if (one.default, one.default_factory) != (MISSING, MISSING)}
    hints = typing.get_type_hints(cls)
    return {one.name: hints[one.name] for one in stated}, optional
