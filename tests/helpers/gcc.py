"""GCC, its cross compiler for 64-bit ARM, and an emulator of such processors, where they are installed."""

from __future__ import annotations

import shutil
from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Tools:
    """Paths of programs."""

    compiler: str
    arm_compiler: str
    emulator: str


NAMES = Tools("g++", "aarch64-linux-gnu-g++", "qemu-aarch64")


def tools() -> Tools | None:
    """All of them; None where one isn't on PATH."""
    paths = [path for name in astuple(NAMES) if (path := shutil.which(name))]
    return Tools(*paths) if len(paths) == len(astuple(NAMES)) else None
