"""Targets: how mirror functions leave torch. Each is a table `name -> emit` and a few facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...refimpl.config import Config
from ...refimpl.errors import ExportError
from .gqa_limits import Kind


@dataclass(frozen=True)
class Emits:
    """What replaces mirror functions, by their names; why others aren't replaced; what the manifest calls
    the cache that a decoder's attention takes."""

    table: Mapping[str, Callable[..., Any]]
    refused: tuple[str, ...] = ()
    cache: Kind = "copied"


@dataclass(frozen=True)
class Target:
    """Where a graph runs and what it is made of; `emits` says what of it applies to a Config."""

    name: str
    device: str
    opset: int
    emits: Callable[[Config], Emits]


def find(name: str) -> Target:
    """The target of that name; ExportError when there is none."""
    from . import ort_targets, standard

    known = {t.name: t for t in (ort_targets.CPU, ort_targets.CUDA, standard.STANDARD)}
    if name not in known:
        raise ExportError(f"target must be one of {', '.join(known)}, got {name!r}")
    return known[name]
