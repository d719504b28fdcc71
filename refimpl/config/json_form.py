"""A Config as JSON and back, exact inverses: each value carries its class name as `type`."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from .model import Config
from .typed_json import read


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
    return read(value, Config, "config")
