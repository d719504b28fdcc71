"""The interface of a quantized weight, which each format implements, and checks that all formats share."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ....errors import CheckpointError
from ....ops.quant import Blocks
from ..tensor_source import RawSource, TensorSource

FLOATS = ("F32", "F16", "BF16")
Shape = tuple[int, ...]


class StoredWeight(Protocol):
    """A quantized weight. `kind` is the name of its type, and `tensors` names the tensors in which it is
    stored.
    """

    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> Shape:
        """The shape that the weight would have in a checkpoint of floats."""
        ...

    @property
    def tensors(self) -> Collection[str]: ...
    def load(self, part: int | None = None) -> np.ndarray:
        """Return the weight as float32. If `part` is given, return only this index of the first axis."""
        ...

    def native(self, part: int | None = None) -> Blocks | None:
        """Return the weight as blocks of codes with scales, without changing its values. Returns None if
        blocks can't represent the weight.
        """
        ...


class Form(Protocol):
    """A quantized format. `weights` finds the format's weights in a file, and yields each with its name in a
    float checkpoint."""

    def weights(self, source: RawSource) -> Iterator[tuple[str, StoredWeight]]: ...


@dataclass(frozen=True)
class Quantization:
    """The quantization that a checkpoint states.

    `unused` are the last parts of tensor names. Tensors with such names say how inputs or caches are rounded,
    and aren't used. `floats` are the modules that the checkpoint states as not quantized. `notes` are texts
    for the user.
    """

    form: Form
    unused: frozenset[str] = frozenset()
    floats: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def modules(source: TensorSource, suffix: str) -> Iterator[str]:
    """Yield the names of the modules that have a tensor with this suffix, such as "qweight"."""
    return (name.removesuffix(f".{suffix}") for name in source.names if name.endswith(f".{suffix}"))


def check(source: TensorSource, name: str, kinds: Collection[str], shape: Shape | None = None) -> Shape:
    """Return the shape of a tensor that a stored weight needs.

    Raises CheckpointError if the tensor is missing, if its type isn't in `kinds`, or if it doesn't have the
    shape `shape`. If `shape` is None, the tensor must be a matrix."""
    if name not in source.names:
        raise CheckpointError(f"tensor {name!r:.120} is missing: a quantized weight needs this tensor")
    kind, got = source.kind(name), source.shape(name)
    if kind not in kinds:
        raise CheckpointError(f"tensor {name!r:.120} must be of type {' or '.join(kinds)}, but it is {kind}")
    if shape is None and (len(got) != 2 or 0 in got):
        raise CheckpointError(f"tensor {name!r:.120} must be a matrix, but it has shape {list(got)}")
    if shape is not None and got != shape:
        raise CheckpointError(f"tensor {name!r:.120} must have shape {list(shape)}, but it has {list(got)}")
    return got
