"""GCC, its cross compiler for 64-bit ARM, an emulator of such processors, and ONNX Runtime's header."""

from __future__ import annotations

import shutil
from dataclasses import astuple, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tools:
    """Paths of programs."""

    compiler: str
    arm_compiler: str
    emulator: str


HEADERS = Path("/usr/include/onnxruntime")
NAMES = Tools("g++", "aarch64-linux-gnu-g++", "qemu-aarch64")


def tools() -> Tools | None:
    """The programs; None where one isn't on PATH, or there is no header."""
    paths = [path for name in astuple(NAMES) if (path := shutil.which(name))]
    there = len(paths) == len(astuple(NAMES)) and (HEADERS / "onnxruntime_c_api.h").is_file()
    return Tools(*paths) if there else None


def required() -> Tools:
    """The programs, of which a test needs all."""
    found = tools()
    assert found is not None, "apt-get install g++ g++-aarch64-linux-gnu qemu-user libonnxruntime-dev"
    return found
