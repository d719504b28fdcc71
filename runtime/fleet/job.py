"""What a job is: a task, a bundle, options and an input. Equal jobs have equal results, block by block."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...refimpl.checkpoint.formats.file_bytes import FileBytes
from ...refimpl.errors import BundleError
from ..bundle.manifest import MANIFEST
from .callables import BatchTask, Classify, Embed, Generate, Tag
from .rows import Format, format_of

TASKS: dict[str, type[BatchTask]] = {
    "embed": Embed,
    "classify": Classify,
    "tag": Tag,
    "generate": Generate,
}
ROWS = 1024  # of a block


def identity(bundle: Path) -> str:
    """The SHA-256 of a bundle's manifest, which has those of its files."""
    return FileBytes(bundle / MANIFEST, BundleError).sha256()


@dataclass(frozen=True)
class Job:
    """A task for each row of a file: `options` are those of its callable, `rows` how many a block has.

    The bundle lies at the same path on each machine, and must be the same one.
    """

    task: str
    bundle: Path
    options: Mapping[str, Any]
    file: Path
    column: str = "text"
    rows: int = ROWS

    @property
    def format(self) -> Format:
        """The form of the input, and of the results."""
        return format_of(self.file)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """All that decides what the results are, as JSON."""
        stated = {
            "tfm": version("tfm-cli"),
            "task": self.task,
            "bundle": identity(self.bundle),
            "options": dict(self.options),
            "input": FileBytes(self.file).sha256(),
            "column": self.column,
            "rows": self.rows,
            "format": self.format,
        }
        return json.loads(json.dumps(stated))

    @cached_property
    def digest(self) -> str:
        """The manifest in 12 digits: part of each result's name, so that no other job's is taken for it."""
        text = json.dumps(self.manifest, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
