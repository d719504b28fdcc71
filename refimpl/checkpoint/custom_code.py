"""Notice a repository's own code, in Python, that belongs to a checkpoint. tfm never runs this code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = ("auto_map", "custom_pipelines")


def replaced_by(values: Mapping[str, Any]) -> str:
    """Return the name of the family that tfm uses in place of a repository's own code.

    Returns an empty text if config.json names no such code.
    """
    return values["model_type"] if any(values.get(key) for key in KEYS) else ""


def describe(family: str) -> str:
    """Return a note for the user: the repository's own code was not run, and tfm uses the family `family`
    instead.
    """
    return f"the repository's own code ({' or '.join(KEYS)}) was not run: tfm used its own family {family}"
