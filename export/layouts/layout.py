"""What a layout is: its name, what it refuses, and what it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...refimpl.config import Config
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.targets import Target


@dataclass(frozen=True)
class BundleLayout:
    """One runtime's form of a bundle.

    `refusal` gives the reason why a model of that Config, exported for that target, can't have it; None where
    it can. `write` fills an empty directory.
    """

    name: str
    refusal: Callable[[Config, Target], str | None]
    write: Callable[[Bundle, Path], None]
