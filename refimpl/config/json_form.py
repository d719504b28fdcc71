"""Convert a Config to JSON and back. The two conversions are exact inverses. Each value carries its class
name as `type`.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from .model import Config
from .typed_json import read


def to_json(value: Any) -> Any:
    """Return the value in the form that `json.dumps` takes: dataclasses become dicts with a `type`."""
    if is_dataclass(value):
        items = {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **items}
    if isinstance(value, tuple):
        return [to_json(v) for v in value]
    return value


def from_json(value: Any) -> Config:
    """Return the Config that `to_json` wrote; raise ConfigError for what `to_json` can't have written.

    A class is known only after its module has been imported. Callers outside of this package therefore use
    `refimpl.components.from_json`, which imports the modules first.
    """
    return read(value, Config, "config")
