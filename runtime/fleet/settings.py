"""Read the settings of the Ray Serve application."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...refimpl.errors import ArgumentError
from ..serving_defaults import MAX_WAIT_S, QUEUE, SLOTS


@dataclass(frozen=True)
class Settings:
    """The settings of `serve run tfm.runtime.fleet:app NAME=VALUE`.

    A setting that isn't given comes from the environment variable TFM_FLEET_NAME, or otherwise has the
    default here. `bundle` lists the paths of the bundles on each machine, separated by commas.
    """

    bundle: str = ""
    api_key_file: str = ""
    min_replicas: int = 1
    max_replicas: int = 1
    slots: int = SLOTS
    queue: int = QUEUE
    max_wait: float = MAX_WAIT_S
    threads: int = 1
    device: str = "cpu"

    @classmethod
    def read(cls, given: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings from `given` and from the environment.

        Raises ArgumentError for an unknown name, for a value of the wrong type, or if no bundle is given.
        """
        kinds = {field.name: type(field.default) for field in fields(cls)}
        if unknown := sorted(set(given) - set(kinds)):
            raise ArgumentError(f"unknown setting {unknown[0]!r:.60}; the settings are {', '.join(kinds)}")
        stated = {name: environment.get(f"TFM_FLEET_{name.upper()}") for name in kinds} | dict(given)
        values: dict[str, Any] = {}
        for name, value in stated.items():
            if value is None:
                continue
            try:
                values[name] = kinds[name](value)
            except ValueError:
                kind = "a whole number" if kinds[name] is int else "a number"
                raise ArgumentError(f"{name} must be {kind}, got {value!r:.60}") from None
        settings = cls(**values)
        if not settings.bundle:
            raise ArgumentError("give a bundle with bundle=PATH, or set TFM_FLEET_BUNDLE")
        for name, value in values.items():
            if kinds[name] is int and value < 1:
                raise ArgumentError(f"{name} must be at least 1, got {value}")
        least, most = settings.min_replicas, settings.max_replicas
        if least > most:
            raise ArgumentError(f"min_replicas must be at most max_replicas, got {least} and {most}")
        return settings

    @property
    def bundles(self) -> dict[str, Path]:
        """A dict from the name of each model, which is its folder's name, to the path of its bundle."""
        paths = [Path(path) for path in self.bundle.split(",")]
        named = {path.name: path for path in paths}
        if len(named) < len(paths):
            raise ArgumentError(
                "bundle must list folders with different names, because a folder's name is the model's name: "
                "rename one folder"
            )
        return named
