"""Convert JSON values to annotated Python types: numbers, strings, tuples, dicts, dataclasses and unions."""

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
    """Convert a JSON value to the type `kind`, or raise ConfigError.

    The error names the path of the wrong value, beginning with `name`. `readers` maps a type to the function
    that reads values of this type. A dataclass is read from an object that has exactly the dataclass's
    fields. A field may be missing if its metadata has `optional`. A `Record` is read from an object with a
    key `type`, the name of the class; fields with a default may be missing.
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
    """Convert a JSON object to an instance of one of these classes."""
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
    """Return the members of a union, or the type itself if it isn't a union."""
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)


@cache
def _parts(option: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return an annotation's generic type and its arguments, such as `tuple` and `(int, ...)`.

    The first value is None for a type that isn't generic.
    """
    return typing.get_origin(option), typing.get_args(option)


@cache
def _dataclasses(options: tuple[Any, ...]) -> tuple[type, ...]:
    return tuple(one for one in options if isinstance(one, type) and is_dataclass(one))


def _classes(options: tuple[Any, ...]) -> tuple[type, ...]:
    """Return the dataclasses that a value may be an instance of.

    A subclass of `Record` is found only after its module has been imported.
    """
    found = _dataclasses(options)
    if len(found) == 1 and not issubclass(found[0], Record):
        return found
    return tuple(kind for one in found for kind in kinds(one))


@cache
def _fields(cls: type) -> tuple[dict[str, Any], set[str]]:
    """Return the type of each field of a dataclass by name, and the names of the fields that may be
    missing.
    """
    stated = fields(cls)  # pyright: ignore[reportArgumentType]
    optional = {one.name for one in stated if one.metadata.get("optional")}
    if issubclass(cls, Record):
        optional = {one.name for one in stated if (one.default, one.default_factory) != (MISSING, MISSING)}
    hints = typing.get_type_hints(cls)
    return {one.name: hints[one.name] for one in stated}, optional
