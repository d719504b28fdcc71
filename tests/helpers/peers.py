"""Other runtimes, each in an environment of its own: tfm must not be what makes them work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OFFLINE = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}


def python_with(folder: Path, *packages: str) -> Path:
    """The interpreter of a new environment in `folder` with these packages."""
    venv.create(folder)
    python = folder / "bin" / "python"
    install(python, *packages)
    return python


def python_by_uv(uv: Path, folder: Path, *packages: str) -> Path:
    """As `python_with`, in a tenth of the time where packages have many others below them."""
    run([uv, "venv", "--quiet", folder])
    python = folder / "bin" / "python"
    run([uv, "pip", "install", "--quiet", "--python", python, *packages])
    return python


def python_over(folder: Path, *packages: str) -> Path:
    """The interpreter of a new environment that has all of this one, tfm too, and these packages."""
    venv.create(folder)
    python = folder / "bin" / "python"
    site = sysconfig.get_path("purelib")
    own = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    (own / "over.pth").write_text(f"import site; site.addsitedir({site!r})\n")
    install(python, *packages)
    return python


def python_with_optimum(folder: Path) -> Path:
    """The interpreter of a new environment with optimum, whose torch is that of this one: it is large."""
    import torch

    python = python_with(folder, "transformers<4.58", "onnx", "onnxruntime")
    install(python, "--no-deps", "optimum", "optimum-onnx")
    (packages,) = folder.glob("lib/*/site-packages")
    (packages / "torch.pth").write_text(str(Path(torch.__file__).parents[1]))
    return python


def install(python: Path, *arguments: str) -> None:
    """By this environment's pip, without the bytecode of modules that nobody imports."""
    options = ("--quiet", "--disable-pip-version-check", "--no-compile")
    run([sys.executable, "-m", "pip", "--python", python, "install", *options, *arguments])


def node_modules(folder: Path, *packages: str) -> Path:
    """A folder in which Node finds these packages; what they'd run to install themselves doesn't run."""
    assert shutil.which("npm"), "npm must be on PATH: apt-get install npm"
    folder.mkdir(exist_ok=True)
    run(["npm", "install", "--ignore-scripts", "--silent", "--prefix", folder, *packages])
    return folder


def run(command: Sequence[Any], given: Any = None, folder: Path | None = None) -> str:
    """What a command prints, with a value as JSON on its stdin; its failure shows its stderr."""
    arguments = [str(part) for part in command]
    text = json.dumps(given)
    done = subprocess.run(
        arguments, input=text, capture_output=True, text=True, cwd=folder, env=os.environ | OFFLINE
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
