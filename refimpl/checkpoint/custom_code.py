"""Code that a checkpoint's repository brings for its model, or around it. It is never run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = ("auto_map", "custom_pipelines")


def replaced_by(values: Mapping[str, Any]) -> str:
    """The family that stands for a repository's own code; empty where its config.json names none."""
    return values["model_type"] if any(values.get(key) for key in KEYS) else ""


def describe(family: str) -> str:
    """What to know of a family that stands for such code: the code could compute something else."""
    return f"the repository's own code ({' or '.join(KEYS)}) was not run: tfm's family {family} stands for it"
