"""Manage the folder of a job's results, with one file for each block of rows. A file is either complete or
absent.

    manifest.json                        the job; a folder of another job is refused
    00000012-3f9c0a51be77.jsonl          block 12 of this job: the rows from 12 · 1024 on
    .00000012-3f9c0a51be77.jsonl.4711    a block that process 4711 is writing

Sorted by name, the files contain the rows in order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...refimpl.checkpoint.formats.file_bytes import read_file
from ...refimpl.checkpoint.formats.strict_json import parse
from ...refimpl.checkpoint.formats.whole_file import write_whole
from ...refimpl.errors import ExportError
from ..bundle.atomic_dir import locked
from .job import Job

MANIFEST = "manifest.json"
MANIFEST_BYTES = 4 * 2**20  # a JSON schema may be in it
BLOCK = re.compile(r"\d{8}-[0-9a-f]{12}\.(?:jsonl|parquet)")
PARTIAL = re.compile(rf"\.{BLOCK.pattern}\.\d+|\.{re.escape(MANIFEST)}\.\d+")


class ResultFolder:
    """The folder of a job's results. The function `opened` opens it."""

    def __init__(self, path: Path, job: Job) -> None:
        self.path, self._job = path, job

    def file(self, block: int) -> Path:
        """Return the path of the file with a block's results."""
        return self.path / f"{block:08}-{self._job.digest}.{self._job.format}"

    def has(self, block: int) -> bool:
        """Return whether the results of a block are complete."""
        return self.file(block).is_file()

    def write(self, block: int, data: bytes) -> None:
        """Write the results of a block to its file, completely or not at all."""
        write_whole(self.file(block), data)


@contextmanager
def opened(path: Path, job: Job) -> Iterator[ResultFolder]:
    """Open the folder of a job's results during a `with` block. The folder may be new, or contain finished
    blocks of the same job.

    No other process can write to the folder during the block. Raises ExportError if the folder belongs to
    another job or contains other files, and BusyError if another process has opened it.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        path.mkdir(exist_ok=True)
        names = sorted(one.name for one in path.iterdir())
        for name in filter(PARTIAL.fullmatch, names):
            (path / name).unlink()  # of a process that was killed
        names = [name for name in names if not PARTIAL.fullmatch(name)]
        if MANIFEST not in names:
            if names:
                raise ExportError(
                    f"the folder {path} must be new or empty or belong to this job, but it contains "
                    f"{names[0]!r:.80}"
                )
            data = json.dumps(job.manifest, indent=1).encode()
            write_whole(path / MANIFEST, data)
        _expect(path, job)
        folder = ResultFolder(path, job)
        for name in names:
            if BLOCK.fullmatch(name) and not name.endswith(f"-{job.digest}.{job.format}"):
                raise ExportError(
                    f"the folder {path} contains {name}, which belongs to another job: choose another folder"
                )
        yield folder


def _expect(path: Path, job: Job) -> None:
    """Raise ExportError, which says what differs, if the folder's manifest isn't this job's manifest."""
    data = read_file(path / MANIFEST, MANIFEST_BYTES, ExportError)
    stated = parse(data, str(path / MANIFEST), ExportError)
    if stated == job.manifest:
        return
    what, theirs, ours = "manifest", stated, job.manifest
    while isinstance(theirs, dict) and isinstance(ours, dict):
        what = next(key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key))
        theirs, ours = theirs.get(what), ours.get(what)
    raise ExportError(
        f"the folder {path} belongs to another job: its {what} is {theirs!r:.80}, but this job's is "
        f"{ours!r:.80}: choose another folder"
    )
