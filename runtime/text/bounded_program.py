"""Run programs of tfm in child processes, so that a library in them may crash, hang or fill memory without
harm.

The kernel ends such a process if it exceeds its limits. All other processes keep running.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

POSIX = os.name == "posix"
SYSTEM_LIMITS_MEMORY = sys.platform == "linux"  # others accept the limit and ignore it


def started(
    program: Path, packages: Sequence[str], *arguments: str, stdin: int, stdout: int
) -> subprocess.Popen[bytes]:
    """Start a program as a child process. The program gets these arguments, followed by the folders of the
    packages that it imports.

    Raises ModuleNotFoundError for a package that isn't installed, OSError if no process can be started.
    """
    if not POSIX:
        raise OSError("this system can't limit the time of a process")
    command = [sys.executable, "-I", "-S", str(program), *arguments, *map(_folder, packages)]
    # In a process group of its own, a terminal doesn't interrupt it.
    return subprocess.Popen(
        command, bufsize=0, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL, process_group=0
    )


def _folder(package: str) -> str:
    """Return the folder in which a package is installed. The package isn't imported, since this process
    doesn't need it.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return str(Path(found.origin).parents[1])
