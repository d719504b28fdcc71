"""Code in a checkpoint's repository for the model, or for use with the model. tfm never runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = ("auto_map", "custom_pipelines")


def replaced_by(values: Mapping[str, Any]) -> str:
    """Return the family that replaces a repository's own code; empty if config.json names no such code."""
    return values["model_type"] if any(values.get(key) for key in KEYS) else ""


def describe(family: str) -> str:
    """Return a note that this family replaces the repository's code, which could compute something else."""
    return f"the repository's own code ({' or '.join(KEYS)}) was not run: tfm's family {family} stands for it"
