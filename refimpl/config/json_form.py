"""Convert a Config to JSON and back without loss. Each JSON object names its class as `type`."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from .model import Config
from .typed_json import read


def to_json(value: Any) -> Any:
    """Convert a Config, or a part of it, to a value for `json.dumps`. A dataclass becomes a dict with a key
    `type`.
    """
    if is_dataclass(value):
        items = {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **items}
    if isinstance(value, tuple):
        return [to_json(v) for v in value]
    return value


def from_json(value: Any) -> Config:
    """Convert the output of `to_json` back to a Config; raise ConfigError for any other value.

    A class is found only after its module has been imported. Code outside of this package calls
    `refimpl.components.from_json`, which first imports the modules.
    """
    return read(value, Config, "config")
