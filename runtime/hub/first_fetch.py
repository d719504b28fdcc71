"""Record the hashes of an alias's files when they are first fetched. A later fetch must bring the same files.

    CACHE/aliases/NAME.json    the commit, and the hash of each file

The record stays when the model is removed. `tfm-cli pull NAME --update` fetches the repository's current
files and replaces the record.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ...refimpl.checkpoint.formats.file_bytes import read_file
from ...refimpl.checkpoint.formats.strict_json import parse
from ...refimpl.errors import CheckpointError
from .aliases import ALIASES
from .cache_dir import cache_dir

LARGEST = 2**20  # bytes of a record


def compare(name: str, hashes: Mapping[str, str]) -> None:
    """Raise CheckpointError if the hashes of an alias's files differ from the hashes at its first fetch."""
    path = _record(name)
    if name not in ALIASES or not path.exists():
        return
    stated = parse(read_file(path, LARGEST), str(path))
    before = stated.get("files") if isinstance(stated, dict) else None
    if not isinstance(before, dict):
        raise CheckpointError(
            f"{path} must list the files of {name} under the key `files`, but doesn't: remove {path}"
        )
    if changed := sorted(file for file in {*before, *hashes} if before.get(file) != hashes.get(file)):
        raise CheckpointError(
            f"{name} has changed since its first fetch: the files {', '.join(changed):.200} differ; "
            f"`tfm-cli pull {name} --update` fetches the new files"
        )


def record(name: str, commit: str, hashes: Mapping[str, str]) -> None:
    """Record the commit and the files' hashes that an alias means from now on. For other names, record
    nothing.
    """
    if name in ALIASES:
        path = _record(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")  # who fetches the alias holds its lock
        new.write_text(json.dumps({"commit": commit, "files": dict(hashes)}, indent=1) + "\n")
        os.replace(new, path)


def _record(name: str) -> Path:
    return cache_dir() / "aliases" / f"{name}.json"
