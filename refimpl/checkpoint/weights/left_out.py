"""Parts of a checkpoint that tfm doesn't read, such as the vision tower beside a text model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ..formats.dtypes import KINDS

if TYPE_CHECKING:
    from ..formats.tensor_source import (
        TensorSource,
    )  # the readers of all formats, which a bundle doesn't need


@dataclass(frozen=True)
class LeftOut:
    """The number of tensors of a part, and their size in bytes; for quantized tensors, scales
    aren't counted.
    """

    tensors: int
    bytes: int

    @classmethod
    def of(cls, source: TensorSource, names: Iterable[str]) -> Self:
        sizes = [math.prod(source.shape(name)) * _bits(source.kind(name)) // 8 for name in names]
        return cls(len(sizes), sum(sizes))


def _bits(kind: str) -> int:
    """The bits of a number: of the file's own types, or as the name of a quantizing library's says, INT8."""
    if kind in KINDS:
        return KINDS[kind].record.itemsize * 8 // KINDS[kind].size
    digits = re.search(r"\d+", kind)
    return int(digits[0]) if digits else 8


def describe(parts: Mapping[str, LeftOut]) -> str:
    """Return a note for the user on parts that are left out, by the prefix of their tensors' names."""
    listed = ", ".join(
        f"{name} ({part.tensors} tensor{'s' * (part.tensors != 1)}, {part.bytes / 1e6:.1f} MB)"
        for name, part in parts.items()
    )
    return f"only the text model is read, its other parts are left out: {listed}"
