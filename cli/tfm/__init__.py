"""The package `tfm`: `refimpl`, `export`, `runtime` and `cli`, each a folder of the repository.

This file is all that the package itself holds: `tfm.__version__`, and that nothing is reported to anybody.
"""

from __future__ import annotations

import os

# ONNX Runtime reads this once, as it is imported. Else its builds for Linux and macOS (since 1.29) keep
# an identifier of the machine in the home folder and send events.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__: str


def __getattr__(name: str) -> str:
    """`__version__` as pyproject.toml states it, read from the installed distribution on first use (8 ms)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("tfm-cli")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
