"""A headless Chromium, where one is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The browser's path; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def run(page: Path, profile: Path, *options: str) -> str:
    """Open a page and return the browser's stdout."""
    program = chromium()
    assert program is not None, f"none of {', '.join(NAMES)} is on PATH: apt-get install chromium"
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    quiet = ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
    done = subprocess.run(
        [*command, *quiet, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout
