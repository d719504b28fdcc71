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
    """The number of tensors in a part of a checkpoint that tfm doesn't read, and their size in bytes. The
    scales of quantized tensors don't count.
    """

    tensors: int
    bytes: int

    @classmethod
    def of(cls, source: TensorSource, names: Iterable[str]) -> Self:
        sizes = [math.prod(source.shape(name)) * _bits(source.kind(name)) // 8 for name in names]
        return cls(len(sizes), sum(sizes))


def _bits(kind: str) -> int:
    """Return how many bits a number of the type `kind` takes. `kind` is a type of the file, such as F16, or a
    name from a quantizing library, such as INT8.
    """
    if kind in KINDS:
        return KINDS[kind].record.itemsize * 8 // KINDS[kind].size
    digits = re.search(r"\d+", kind)
    return int(digits[0]) if digits else 8


def describe(parts: Mapping[str, LeftOut]) -> str:
    """Return a note that tells the user which parts of the model aren't read. `parts` are keyed by the prefix
    of their tensors' names.
    """
    listed = ", ".join(
        f"{name} ({part.tensors} tensor{'s' * (part.tensors != 1)}, {part.bytes / 1e6:.1f} MB)"
        for name, part in parts.items()
    )
    return f"only the text model is read, its other parts are left out: {listed}"
