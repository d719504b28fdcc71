"""Define a job: a task, a bundle, options and an input. Equal jobs have equal results, block by block."""

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
    """Return the SHA-256 of a bundle's manifest. The manifest contains the hashes of all the bundle's
    files.
    """
    return FileBytes(bundle / MANIFEST, BundleError).sha256()


@dataclass(frozen=True)
class Job:
    """A task to compute for each row of a file.

    - `task`: the name of the task, one of `TASKS`.
    - `bundle`: the bundle's path. Each machine must have the same bundle at this path.
    - `options`: the options of the task's callable.
    - `file`, `column`: the input file and its column of texts.
    - `rows`: how many rows of the file one worker reads at a time (a block).
    """

    task: str
    bundle: Path
    options: Mapping[str, Any]
    file: Path
    column: str = "text"
    rows: int = ROWS

    @property
    def format(self) -> Format:
        """The format of the input file. The result files have the same format."""
        return format_of(self.file)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Everything that determines the results, as a JSON object."""
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
        """The first 12 hexadecimal digits of the manifest's hash. The name of each result file contains these
        digits, so that nobody confuses the results of different jobs.
        """
        text = json.dumps(self.manifest, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
