"""A job: a task, a bundle, options and an input. Equal jobs have equal results, block by block."""

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
    """Return the SHA-256 of a bundle's manifest, which has the hashes of its files."""
    return FileBytes(bundle / MANIFEST, BundleError).sha256()


@dataclass(frozen=True)
class Job:
    """A task for each row of a file.

    `options` are the options of the task's callable, and `rows` is the number of rows in a block. Each
    machine must have the same bundle at the same path.
    """

    task: str
    bundle: Path
    options: Mapping[str, Any]
    file: Path
    column: str = "text"
    rows: int = ROWS

    @property
    def format(self) -> Format:
        """The file format, which the input and the results share."""
        return format_of(self.file)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Return, as JSON, everything on which the results depend."""
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
        """The manifest's hash in 12 digits. These digits are part of each result file's name, so that results
        of different jobs aren't confused.
        """
        text = json.dumps(self.manifest, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
