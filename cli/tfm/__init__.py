"""The package `tfm`: `refimpl`, `export`, `runtime` and `cli`, each a folder of the repository.

This file is all that the package itself holds: `tfm.__version__`.
"""

from __future__ import annotations

__version__: str


def __getattr__(name: str) -> str:
    """`__version__` as pyproject.toml states it, read from the installed distribution on first use (8 ms)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("tfm-cli")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
