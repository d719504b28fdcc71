"""A Config as JSON and back, exact inverses: each value carries its class name as `type`."""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal

from ..errors import ConfigError
from .model import Config
from .record import Record, kinds


def to_json(value: Any) -> Any:
    """The value in the form that `json.dumps` takes: dataclasses as dicts with a `type`."""
    if is_dataclass(value):
        items = {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **items}
    if isinstance(value, tuple):
        return [to_json(v) for v in value]
    return value


def from_json(value: Any) -> Config:
    """The Config that `to_json` wrote; ConfigError for anything that it can't have written.

    Classes are known from when their modules are imported, so others call `refimpl.components.from_json`.
    """
    config = _read(value, Config, "config")
    assert isinstance(config, Config)
    return config


def _read(value: Any, kind: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{path} must be a list, got {value!r:.80}")
        item = typing.get_args(kind)[0]
        return tuple(_read(v, item, f"{path}[{i}]") for i, v in enumerate(value))
    options = typing.get_args(kind) if origin in (typing.Union, types.UnionType) else (kind,)
    if isinstance(value, dict):
        named = {kind.__name__: kind for o in options for kind in _records(o)}
        name = value.get("type")
        if not isinstance(name, str) or name not in named:
            raise ConfigError(f"{path}.type must be one of {sorted(named)}, got {name!r:.80}")
        cls = named[name]
        hints = _hints(cls)
        items = {k: v for k, v in value.items() if k != "type"}
        if unknown := sorted(set(items) - {f.name for f in fields(cls)}):
            raise ConfigError(f"{path} has unknown fields {unknown}")
        arguments = {k: _read(v, hints[k], f"{path}.{k}") for k, v in items.items()}
        try:
            return cls(**arguments)
        except TypeError as error:
            raise ConfigError(f"{path} lacks a field: {error}") from None
    for option in options:
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if option is float and type(value) in (int, float) and abs(value) < 2**128:
            return float(value)
        if option in (int, bool, str, type(None)) and type(value) is option:
            return value
    if origin is Literal:
        raise ConfigError(f"{path} must be one of {typing.get_args(kind)}, got {value!r:.80}")
    raise ConfigError(f"{path} must be {kind}, got {value!r:.80}")


def _records(option: Any) -> tuple[type, ...]:
    return kinds(option) if isinstance(option, type) and issubclass(option, Record) else ()


# A Config has hundreds of parts of few classes, and hints are evaluated from texts.
_hints = cache(typing.get_type_hints)
