"""Find the files of GGUF models by their names. A model has one file or several. No file is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import CheckpointError

PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)
MAX_PARTS = 1000


def parts_of(path: Path) -> list[Path]:
    """Return the files of a GGUF model: one file, or all parts if `path` is the first of several.

    The name of the first part states the number of parts. Raises CheckpointError if `path` is a later part,
    or if a part is missing.
    """
    match = PART.fullmatch(path.name)
    if match is None or match[3] == "00001":
        return [path]
    first = path.with_name(f"{match[1]}-00001-of-{match[3]}.gguf")
    if path.name != first.name:
        raise CheckpointError(f"{path}: is a part of a model: give the first part, {first.name}")
    if not 1 < int(match[3]) <= MAX_PARTS:
        raise CheckpointError(
            f"{path}: a model may have at most {MAX_PARTS} parts, but the file's name states {int(match[3])}"
        )
    files = [
        path.with_name(f"{match[1]}-{number:05}-of-{match[3]}.gguf") for number in range(1, int(match[3]) + 1)
    ]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(
            f"{path}: all parts of this model must be in one folder, but {len(missing)} parts are missing, "
            f"the first is {missing[0]}"
        )
    return files


def models_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the GGUF models among file names. The result maps the first file of each model to all of its
    files.

    An image encoder's file, which llama.cpp's converter names mmproj, isn't a model.
    """
    models: dict[str, list[str]] = {}
    for name in sorted(names):
        match = PART.fullmatch(name)
        if name.endswith(".gguf") and not name.rpartition("/")[2].startswith("mmproj"):
            first = name if match is None else f"{match[1]}-00001-of-{match[3]}.gguf"
            models.setdefault(first, []).append(name)
    return models
