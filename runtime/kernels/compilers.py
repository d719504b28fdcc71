"""Find the C++ compilers of this machine, in the order in which they are tried: $CXX, c++, the package
ziglang.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .platforms import Platform

FLAGS = (
    "-O3", "-std=c++17", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti", "-fPIC", "-shared",
    "-fvisibility=hidden", "-s",
)  # fmt: skip
ANSWER_S = 20.0  # until a compiler must have named its version


@dataclass(frozen=True)
class Compiler:
    """A compiler that works on this machine.

    `command` is the command line to which files and flags are added. `version` is the first line that the
    compiler prints about itself.
    """

    command: tuple[str, ...]
    version: str


def available(platform: Platform) -> list[Compiler]:
    """Return the compilers that can build for a platform. Only ziglang can build for another platform than
    this machine's.
    """
    commands = [_zig(platform)]
    if platform == Platform.here():
        commands = [_on_path(os.environ.get("CXX", "")), _on_path("c++"), *commands]
    return [
        Compiler(command, version)
        for command in dict.fromkeys(filter(None, commands))
        if (version := _version(command)) is not None
    ]


def _on_path(line: str) -> tuple[str, ...] | None:
    """Return a command line with the absolute path of its program; None if the program isn't on PATH.

    A relative entry of PATH doesn't count, because it would depend on the current directory.
    """
    try:
        words = shlex.split(line)
    except ValueError:  # quotes that don't end
        return None
    program = shutil.which(words[0]) if words else None
    return (program, *words[1:]) if program is not None and Path(program).is_absolute() else None


def _zig(platform: Platform) -> tuple[str, ...] | None:
    if importlib.util.find_spec("ziglang") is None:
        return None
    # -P: a folder of that name in the current directory isn't the package. As `c++` it would compile a C++
    # library first, for most of a minute, which the sources don't need.
    return (sys.executable, "-P", "-m", "ziglang", "cc", "-x", "c++", "-target", platform.zig)


def _version(command: tuple[str, ...]) -> str | None:
    """Return the first line that a compiler prints about its version; None if the compiler can't run."""
    try:
        with tempfile.TemporaryDirectory() as folder:  # zig leaves a file where it runs
            answer = subprocess.run(
                [*command, "--version"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=ANSWER_S,
            )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = answer.stdout.decode(errors="replace").splitlines()
    return lines[0][:200] if answer.returncode == 0 and lines else None
