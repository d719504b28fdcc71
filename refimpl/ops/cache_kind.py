"""What a layer keeps of earlier tokens, as engines and bundles see it: its arrays, and how they are
allocated, copied, grown and truncated. `engine.cache_kinds` draws all kinds.

Arrays of a layer with a window may be short: then they hold the latest tokens of a row, from entry 0 on. With
a window of 4 (the next token sees 3 before itself), 2 tokens of slack and runs of up to 3 tokens, an array
has 3 + 2 + 3 entries. When a run has no room, the oldest tokens are dropped:

    full       t0 t1 t2 t3 t4 t5 t6 t7    length 8, dropped 0
    make room  t3 t4 t5 t6 t7  .  .  .    length 8, dropped 3: 3 + 2 tokens stay
    run        t3 t4 t5 t6 t7 t8 t9 t10   length 11, dropped 3

Rotations count positions of the text, masks count entries: a distance is the same in both. So memory and work
don't grow with the text, and as many tokens as the slack has can always be cut back. A ring of entries would
save the moving, but no fused operator reads one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

__all__ = ["CacheArray", "CacheKind", "RecurrentState"]

# Tokens kept beside those that a window sees, so that refused drafts can be cut off again.
SLACK = 32
# Room for new tokens beside those that a window keeps, and so the most tokens of one run. More would only
# take longer: the fused operator scores every entry of the buffer.
CHUNK = 128

Arrays = Sequence[np.ndarray]
ArrayType = Literal["int8", "uint8", "float16"]  # what arrays may hold beside the model's floats


def retained(window: int) -> int:
    """Tokens that stay when the arrays of a window are full: what the next token sees, and the slack."""
    return window - 1 + SLACK


@dataclass(frozen=True)
class CacheArray:
    """One array of a layer's cache. Axes are sizes, or names of sizes that vary: the batch's first.

    `dtype` None stands for the type of the model's floats. An entry of a last axis that is shorter
    than `numbers` holds several.
    """

    name: str
    axes: tuple[str | int, ...]
    dtype: ArrayType | None = None
    numbers: int | None = None


class CacheKind(ABC):
    """What one layer keeps. Subclasses are frozen dataclasses; layers that keep alike have equal kinds.

    `window` is the number of latest tokens that the layer can see, None where it sees all. `dropped` [B] in
    the methods below is how many tokens of each row were given up, the oldest ones; without a window none.
    """

    window: int | None = None
    holds: ClassVar[type]  # the cache of `ops` over the arrays
    recurrent = False  # whether a step changes arrays that have no axis of tokens, so that padding must not
    adds_up = False  # whether rounding errors of all tokens add up

    @property
    @abstractmethod
    def arrays(self) -> tuple[CacheArray, ...]:
        """The arrays, in the order in which `ops` takes and gives them."""

    @property
    def tokens_axis(self) -> str:
        """The name of the axis that counts tokens, in those arrays that have it."""
        return "capacity" if self.window is None else f"window{self.window}"

    @property
    def retained(self) -> int:
        """Tokens that stay when the arrays of a window are full."""
        assert self.window is not None
        return retained(self.window)

    @property
    def in_chunks(self) -> bool:
        """Whether ONNX Runtime reads a long text in several runs, as it has no room for all."""
        return self.window is not None

    @property
    def has_codes(self) -> bool:
        """Whether arrays hold codes, which ONNX Runtime's operators are slow to read: over these too a long
        text is read in several runs. (A prompt of 2048 tokens takes 5.8 s in one run and 3.4 s in chunks.)"""
        return any(array.dtype in ("int8", "uint8") for array in self.arrays)

    def with_lengths(self, cache: Any, lengths: Any) -> Any:
        """A cache of this kind for a step of whose tokens `lengths` [B] are real, where it must know that."""
        return cache

    def entries(self, capacity: int, chunk: int | None = None) -> int:
        """Tokens that the arrays have room for, in a cache for texts of `capacity` tokens, `chunk` a run."""
        return capacity if self.window is None else min(capacity, self.retained + (chunk or CHUNK))

    def shapes(self, batch: int, capacity: int, chunk: int | None = None) -> list[tuple[int, ...]]:
        """The shapes of the arrays."""
        sizes = {"batch": batch, self.tokens_axis: self.entries(capacity, chunk)}
        return [tuple(sizes[a] if isinstance(a, str) else a for a in array.axes) for array in self.arrays]

    def dtypes(self, floats: np.dtype) -> list[np.dtype]:
        """The types of the arrays, in a model of these floats."""
        return [floats if array.dtype is None else np.dtype(array.dtype) for array in self.arrays]

    def nbytes(self, capacity: int, float_bytes: int, chunk: int | None = None) -> int:
        """Bytes of one row."""
        widths = [float_bytes if a.dtype is None else np.dtype(a.dtype).itemsize for a in self.arrays]
        sizes = [math.prod(shape) for shape in self.shapes(1, capacity, chunk)]
        return sum(size * width for size, width in zip(sizes, widths, strict=True))

    def floor(self, lengths: np.ndarray, dropped: np.ndarray) -> np.ndarray:
        """The least length above 0 that each row can be truncated to: the next token finds all it sees."""
        if self.window is None:
            return np.zeros_like(lengths)
        return np.where(dropped > 0, dropped + self.window - 1, 0)

    def why_not_shorter(self) -> str:
        """Why a row can't be truncated below its floor, as the end of an error message."""
        return "what a window saw before was overwritten"

    def value(self, arrays: Sequence[Any], lengths: Any = None) -> Any:
        """The cache that `ops` takes over these arrays, NumPy's or another library's.

        For a step in which only the first `lengths` [B] tokens of each row are real; None for all.
        """
        return self.with_lengths(self.holds(*arrays), lengths)

    def empty(self, batch: int, capacity: int, dtype: np.dtype) -> Any:
        """An empty cache of the specification, all floats: codes too are kept there times their scale.

        `dtype` is that of the model's floats.
        """
        shapes = zip(self.shapes(batch, capacity), self.arrays, strict=True)
        return self.value([np.zeros((*s[:-1], array.numbers or s[-1]), dtype) for s, array in shapes])

    def copy_row(self, source: Arrays, row: int, target: Arrays, to: int, count: int) -> None:
        """Copy a row with its `count` tokens to row `to` of other arrays, or of the same."""
        for old, new, axis in zip(source, target, self._axes(), strict=True):
            part = _first(axis, count)
            new[(to, *part)] = old[(row, *part)]

    def replace_rows(self, arrays: Arrays, to: np.ndarray, rows: np.ndarray, count: int) -> None:
        """Copy the rows `rows` over the rows `to` of the same arrays, all at once, `count` tokens each."""
        for array, axis in zip(arrays, self._axes(), strict=True):
            part = _first(axis, count)
            # An index by arrays makes a copy first, so that a row may be read after it was overwritten.
            array[(to, *part)] = array[(rows, *part)]

    def keep_latest(self, arrays: Arrays, row: int, held: int) -> None:
        """Move the tokens that a window keeps to the front; `held` tokens are there."""
        count = self.retained
        for array, axis in zip(arrays, self._axes(), strict=True):
            if axis is not None:
                before = (slice(None),) * (axis - 1)
                array[(row, *before, slice(count))] = array[(row, *before, slice(held - count, held))]

    def _axes(self) -> list[int | None]:
        """Of each array the axis that counts tokens, None for one that has no such axis."""
        name = self.tokens_axis
        return [array.axes.index(name) if name in array.axes else None for array in self.arrays]


class RecurrentState(CacheKind):
    """What is computed of all tokens together, and doesn't grow with them. It can't forget the last ones."""

    recurrent = True
    adds_up = True

    def floor(self, lengths: np.ndarray, dropped: np.ndarray) -> np.ndarray:
        return lengths

    def why_not_shorter(self) -> str:
        return "the state of a recurrence can't go back"

    def with_lengths(self, cache: Any, lengths: Any) -> Any:
        return cache._replace(lengths=lengths)


def _first(axis: int | None, count: int) -> tuple[slice, ...]:
    """The first tokens of a row, as an index behind that of the row."""
    return () if axis is None else (*(slice(None),) * (axis - 1), slice(count))
