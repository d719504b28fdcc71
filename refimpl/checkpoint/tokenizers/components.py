"""Read the components of a tokenizer.json. An unknown option, or a value of the wrong type, raises an
error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ...errors import CheckpointError

Reader: TypeAlias = Callable[[Any, str], Any]  # (JSON value, its path in the file) -> checked value
REQUIRED = object()
MAX_STEPS = 64  # components of a sequence
MAX_CHARACTERS = 256  # of a text that is inserted into others


@dataclass(frozen=True)
class Option:
    """An option of a tokenizer component: the function that reads it, and its value if the file doesn't state
    it.
    """

    read: Reader
    default: Any = REQUIRED


@dataclass(frozen=True)
class ComponentType:
    """A type of tokenizer component: its options, and the function that builds the component from them."""

    make: Callable[..., Any]
    options: Mapping[str, Option] = field(default_factory=dict)


def read_component(value: Any, types: Mapping[str, ComponentType], where: str) -> Any:
    """Build the component that a JSON object describes. Raises CheckpointError for an unknown type or a wrong
    option.
    """
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must be an object, got {value!r:.60}")
    name = value.get("type")
    if not isinstance(name, str) or name not in types:
        raise CheckpointError(f"{where}: type must be one of {', '.join(types)}, got {name!r:.60}")
    component_type = types[name]
    if unknown := sorted(value.keys() - component_type.options.keys() - {"type"}):
        known = ", ".join(sorted(component_type.options)) or "(none)"
        raise CheckpointError(f"{where}: unknown key {unknown[0]!r:.60}; {name} may have the keys {known}")
    options: dict[str, Any] = {}
    for key, option in component_type.options.items():
        if key in value:
            options[key] = option.read(value[key], f"{where}.{key}")
        elif option.default is REQUIRED:
            raise CheckpointError(f"{where}: the key {key!r} is missing, which {name} must have")
        else:
            options[key] = option.default
    return component_type.make(**options)


def _typed(kind: type, name: str, least: int | None = None, most: int | None = None) -> Reader:
    def read(value: Any, where: str) -> Any:
        if type(value) is not kind:
            raise CheckpointError(f"{where} must be {name}, got {value!r:.60}")
        size = len(value) if kind is str else value
        if (least is not None and size < least) or (most is not None and size > most):
            raise CheckpointError(f"{where} must be {name}, got {value!r:.60}")
        return value

    return read


flag = _typed(bool, "true or false")
text = _typed(str, f"a text of at most {MAX_CHARACTERS} characters", most=MAX_CHARACTERS)
character = _typed(str, "one character", 1, 1)
count = _typed(int, "a whole number from 0", 0, 2**32 - 1)


def one_of(*names: str) -> Reader:
    """Return a reader of options that accepts only one of the given words."""

    def read(value: Any, where: str) -> str:
        if value not in names or not isinstance(value, str):
            raise CheckpointError(f"{where} must be one of {', '.join(names)}, got {value!r:.60}")
        return value

    return read


def nullable(read: Reader) -> Reader:
    """Return a reader of options that accepts null, and any value that `read` accepts."""
    return lambda value, where: None if value is None else read(value, where)


def listed(read: Reader, most: int = MAX_STEPS) -> Reader:
    """Return a reader of options that accepts a list of at most `most` values. `read` reads each value."""

    def read_all(values: Any, where: str) -> list[Any]:
        if not isinstance(values, list) or len(values) > most:
            raise CheckpointError(f"{where} must be a list of at most {most} items, got {values!r:.60}")
        return [read(value, f"{where}[{i}]") for i, value in enumerate(values)]

    return read_all
