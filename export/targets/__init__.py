"""Targets: how mirror functions leave torch. Each is a table `name -> emit` and a few facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...refimpl.config import Config
from ...refimpl.errors import ExportError


@dataclass(frozen=True)
class Target:
    """Where a graph runs and what it is made of.

    `emits(config)` gives the functions that replace mirror functions (by the mirror's name), and
    the reasons for those that don't apply to this Config; `shared` says whether the attention
    operator writes the cache in place.
    """

    name: str
    device: str
    opset: int
    shared: bool
    emits: Callable[[Config], tuple[Mapping[str, Callable[..., Any]], list[str]]]


def find(name: str) -> Target:
    """The target of that name; ExportError when there is none."""
    from . import ort, standard

    known = {t.name: t for t in (ort.CPU, ort.CUDA, standard.STANDARD)}
    if name not in known:
        raise ExportError(f"target must be one of {', '.join(known)}, got {name!r}")
    return known[name]
