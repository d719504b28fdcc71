"""Read GGUF models in several files, NAME-00001-of-00003.gguf and so on, as llama.cpp's gguf-split writes
them.

Each part is a GGUF file with tensors of its own, and the first part contains the metadata. Each part states
`split.no` (its number from 0), `split.count` (the number of parts) and `split.tensors.count` (the number of
tensors in all parts).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from .gguf import GGUF
from .gguf_parts import parts_of
from .named_tensors import Tensors, joined


class SplitGguf(Tensors):
    """All parts of a GGUF model, read like one file. `path` is the path of the first part."""

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
            raise CheckpointError(
                f"{self.path}: a tensor may be in only one part of the model, but one is in two parts"
            )


def open_gguf(path: Path) -> GGUF | SplitGguf:
    """Open a GGUF file. If the file is the first part of a model, open all parts. Raises CheckpointError for
    a damaged or missing part.
    """
    files = parts_of(path)
    if len(files) == 1:
        return GGUF(path)
    return SplitGguf([GGUF(file) for file in files])
