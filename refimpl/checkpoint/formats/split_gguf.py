"""GGUF models of several files, NAME-00001-of-00003.gguf and so on, as llama.cpp's gguf-split writes them.

Each part is a GGUF file with tensors of its own. The first has the metadata; all have `split.no` (from 0),
`split.count` and `split.tensors.count`, the number of tensors in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from .gguf import GGUF
from .named_tensors import Tensors, joined

PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)
MAX_PARTS = 1000


class SplitGguf(Tensors):
    """The parts as one file; `path` is the first part's."""

    def __init__(self, parts: list[GGUF]) -> None:
        super().__init__(joined(parts))
        self.path = parts[0].path
        self.metadata: Mapping[str, Any] = {
            key: value for key, value in parts[0].metadata.items() if not key.startswith("split.")
        }
        for number, part in enumerate(parts):
            want = (number, len(parts), len(self.names))
            stated = tuple(part.metadata.get(f"split.{key}") for key in ("no", "count", "tensors.count"))
            if stated != want:
                raise CheckpointError(
                    f"{part.path}: split.no, split.count and split.tensors.count must be {want}, got "
                    f"{stated!s:.80}"
                )
        if sum(len(part.names) for part in parts) != len(self.names):
            raise CheckpointError(f"{self.path}: a tensor may be in one of the parts only")


def open_gguf(path: Path) -> GGUF | SplitGguf:
    """A GGUF file, or all parts of the model whose first part this is. Raises CheckpointError."""
    files = parts_of(path)
    if len(files) == 1:
        return GGUF(path)
    return SplitGguf([GGUF(file) for file in files])


def parts_of(path: Path) -> list[Path]:
    """The files of a GGUF model: the parts that the name of the first one counts, or the file alone.

    CheckpointError for another part than the first, and where a part is missing.
    """
    match = PART.fullmatch(path.name)
    if match is None or match[3] == "00001":
        return [path]
    first = path.with_name(f"{match[1]}-00001-of-{match[3]}.gguf")
    if path.name != first.name:
        raise CheckpointError(f"{path}: is a part of a model: name the first one, {first.name}")
    if not 1 < int(match[3]) <= MAX_PARTS:
        raise CheckpointError(f"{path}: a model may have {MAX_PARTS} parts, the name says {int(match[3])}")
    files = [
        path.with_name(f"{match[1]}-{number:05}-of-{match[3]}.gguf") for number in range(1, int(match[3]) + 1)
    ]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(f"{path}: {len(missing)} of its parts must lie beside it, first {missing[0]}")
    return files


def models_of(names: Iterable[str]) -> dict[str, list[str]]:
    """The GGUF models among paths: the file, or the first part, of each, with all of its files.

    Parts of an image encoder, which llama.cpp's converter names mmproj, are no models.
    """
    models: dict[str, list[str]] = {}
    for name in sorted(names):
        match = PART.fullmatch(name)
        if name.endswith(".gguf") and not name.rpartition("/")[2].startswith("mmproj"):
            first = name if match is None else f"{match[1]}-00001-of-{match[3]}.gguf"
            models.setdefault(first, []).append(name)
    return models
