"""Find programs on this machine that can run JavaScript: Node with its packages, and browsers. No program is
started.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "firefox",
)


def browser() -> str | None:
    """Return the command of the first known browser on PATH; None if there is none."""
    return next(filter(shutil.which, BROWSERS), None)


def lacks(package: str) -> str | None:
    """Return the reason why a program in the current directory can't import a package of Node; None if it
    can.

    Node looks in the folder node_modules of the directory and of each directory above, and in the folders
    of NODE_PATH.
    """
    if shutil.which("node") is None:
        return "not found: node isn't on PATH"
    here = Path.cwd()
    folders = [folder / "node_modules" for folder in (here, *here.parents)]
    folders += [Path(folder) for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if folder]
    if any((folder / package / "package.json").is_file() for folder in folders):
        return None
    return f"not found from this directory: npm install --ignore-scripts {package}"
