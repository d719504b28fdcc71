"""Reading the components of a tokenizer.json: every option is known and of its type, or an error names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..errors import CheckpointError

Reader: TypeAlias = Callable[[Any, str], Any]  # a value and where it stands -> what it means
REQUIRED = object()
STEPS = 64  # components of a sequence
LETTERS = 256  # characters of a text that is put into others


@dataclass(frozen=True)
class Option:
    """How an option reads, and what it is where it is left out."""

    read: Reader
    default: Any = REQUIRED


@dataclass(frozen=True)
class Kind:
    """A type of component: what makes it of its options."""

    make: Callable[..., Any]
    options: Mapping[str, Option] = field(default_factory=dict)


def component(value: Any, kinds: Mapping[str, Kind], where: str) -> Any:
    """The component that a JSON object states, or CheckpointError with the name of what is wrong."""
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must be an object, got {value!r:.60}")
    name = value.get("type")
    if not isinstance(name, str) or name not in kinds:
        raise CheckpointError(f"{where}: type must be one of {', '.join(kinds)}, got {name!r:.60}")
    kind = kinds[name]
    if unknown := sorted(value.keys() - kind.options.keys() - {"type"}):
        raise CheckpointError(f"{where}: {name} has no option {unknown[0]!r:.60}")
    given: dict[str, Any] = {}
    for key, option in kind.options.items():
        if key in value:
            given[key] = option.read(value[key], f"{where}.{key}")
        elif option.default is REQUIRED:
            raise CheckpointError(f"{where}: {name} must have {key}")
        else:
            given[key] = option.default
    return kind.make(**given)


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
text = _typed(str, f"a text of at most {LETTERS} characters", most=LETTERS)
character = _typed(str, "one character", 1, 1)
count = _typed(int, "a whole number from 0", 0, 2**32 - 1)


def one_of(*names: str) -> Reader:
    """One of a few words."""

    def read(value: Any, where: str) -> str:
        if value not in names or not isinstance(value, str):
            raise CheckpointError(f"{where} must be one of {', '.join(names)}, got {value!r:.60}")
        return value

    return read


def nullable(read: Reader) -> Reader:
    """null, or what `read` reads."""
    return lambda value, where: None if value is None else read(value, where)


def listed(read: Reader, most: int = STEPS) -> Reader:
    """A list of what `read` reads, each."""

    def read_all(values: Any, where: str) -> list[Any]:
        if not isinstance(values, list) or len(values) > most:
            raise CheckpointError(f"{where} must be a list of at most {most}, got {values!r:.60}")
        return [read(value, f"{where}[{i}]") for i, value in enumerate(values)]

    return read_all
