"""The kinds of caches, as engines and bundles use them: the arrays that a layer keeps, and how these
arrays are allocated, copied, grown and truncated. `engine.cache_kinds` lists all kinds.

The arrays of a layer with a window may be short. Short arrays hold only the latest tokens of a row, from
entry 0 on. For example, take a window of 4 (the next token sees 3 tokens before itself), 2 tokens of slack
and runs of up to 3 tokens. An array then has 3 + 2 + 3 entries. When there is no room for a run, the
oldest tokens are dropped:

    full       t0 t1 t2 t3 t4 t5 t6 t7    length 8, dropped 0
    make room  t3 t4 t5 t6 t7  .  .  .    length 8, dropped 3: 3 + 2 tokens stay
    run        t3 t4 t5 t6 t7 t8 t9 t10   length 11, dropped 3

Rotations use positions in the text, and masks use entries of the arrays; the distance between two tokens
is the same in both. So memory and work don't grow with the text. A row can always be truncated by as many
tokens as the slack has. A ring buffer would avoid moving the entries, but no fused operator can read a
ring buffer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

# Tokens kept beside those that a window sees, so that refused drafts can be cut off again.
SLACK = 32
# Room for new tokens beside those that a window keeps, and so the most tokens of one run. More would only
# take longer: the fused operator scores every entry of the buffer.
CHUNK = 128

Arrays = Sequence[np.ndarray]
ArrayType = Literal["int8", "uint8", "float16"]  # what arrays may hold beside the model's floats


def retained(window: int) -> int:
    """Return how many tokens remain when a window's arrays are full: the tokens that the next token sees,
    plus the slack.
    """
    return window - 1 + SLACK


@dataclass(frozen=True)
class CacheArray:
    """One array of a layer's cache. Each axis is given as a number, or as the name of a size that varies.
    The first axis is the batch.

    A `dtype` of None means the type of the model's floats. If the last axis is shorter than `numbers`,
    each entry of that axis stores several numbers.
    """

    name: str
    axes: tuple[str | int, ...]
    dtype: ArrayType | None = None
    numbers: int | None = None


class CacheKind(ABC):
    """The kind of cache that one layer has. Subclasses are frozen dataclasses, so layers with the same
    kind of cache have equal kinds.

    `window` is the number of latest tokens that the layer can see, or None if the layer sees all tokens.
    In the methods, `dropped` [B] is how many of the oldest tokens of each row were dropped. Without a
    window, no tokens are dropped.
    """

    window: int | None = None
    holds: ClassVar[type]  # the cache of `ops` over the arrays
    recurrent = False  # whether a step changes arrays that have no axis of tokens, so that padding must not
    adds_up = False  # whether rounding errors of all tokens add up
    costly_runs = False  # whether a run's memory grows with its tokens' square, or holds a state for each

    @property
    @abstractmethod
    def arrays(self) -> tuple[CacheArray, ...]:
        """The arrays of the cache, in the order in which the functions of `ops` take and return them."""

    @property
    def tokens_axis(self) -> str:
        """The name of the axis that counts tokens. Not every array of the cache has this axis."""
        return "capacity" if self.window is None else f"window{self.window}"

    @property
    def retained(self) -> int:
        """The number of tokens that remain when a window's arrays are full."""
        assert self.window is not None
        return retained(self.window)

    @property
    def in_chunks(self) -> bool:
        """Whether ONNX Runtime must read a long text in several runs, because the cache's arrays have no
        room for the whole text, or because a run of the whole text would need too much memory.
        """
        return self.window is not None or self.costly_runs

    @property
    def has_codes(self) -> bool:
        """Whether the arrays store integer codes. If they do, ONNX Runtime also reads a long text in
        several runs, because its operators read codes slowly: a prompt of 2048 tokens takes 5.8 s in one
        run and 3.4 s in chunks.
        """
        return any(array.dtype in ("int8", "uint8") for array in self.arrays)

    def with_lengths(self, cache: Any, lengths: Any) -> Any:
        """Return the cache with the number of real tokens in each row, `lengths` [B], if this kind of
        cache needs it.
        """
        return cache

    def entries(self, capacity: int, chunk: int | None = None) -> int:
        """Return how many tokens the cache's arrays have room for. The cache is for texts of up to
        `capacity` tokens, and a model reads them in runs of up to `chunk` tokens.
        """
        return capacity if self.window is None else min(capacity, self.retained + (chunk or CHUNK))

    def shapes(self, batch: int, capacity: int, chunk: int | None = None) -> list[tuple[int, ...]]:
        """Return the shape of each array of the cache."""
        sizes = {"batch": batch, self.tokens_axis: self.entries(capacity, chunk)}
        return [tuple(sizes[a] if isinstance(a, str) else a for a in array.axes) for array in self.arrays]

    def dtypes(self, floats: np.dtype) -> list[np.dtype]:
        """Return the type of each array of the cache. `floats` is the type of the model's floats."""
        return [floats if array.dtype is None else np.dtype(array.dtype) for array in self.arrays]

    def nbytes(self, capacity: int, float_bytes: int, chunk: int | None = None) -> int:
        """Return the size of one row of the cache in bytes."""
        widths = [float_bytes if a.dtype is None else np.dtype(a.dtype).itemsize for a in self.arrays]
        sizes = [math.prod(shape) for shape in self.shapes(1, capacity, chunk)]
        return sum(size * width for size, width in zip(sizes, widths, strict=True))

    def floor(self, lengths: np.ndarray, dropped: np.ndarray) -> np.ndarray:
        """Return the smallest length above 0 to which each row can be truncated. At this length, the cache
        still contains all tokens that the next token sees.
        """
        if self.window is None:
            return np.zeros_like(lengths)
        return np.where(dropped > 0, dropped + self.window - 1, 0)

    def why_not_shorter(self) -> str:
        """Return why a row can't be truncated below its `floor`, as text for the end of an error message."""
        return "later tokens have overwritten the earlier tokens of the window"

    def value(self, arrays: Sequence[Any], lengths: Any = None) -> Any:
        """Return a cache in the form that functions of `ops` take, made of these arrays of NumPy or
        another library.

        `lengths` [B] is the number of real tokens of each row in a step. None means that all tokens are
        real.
        """
        return self.with_lengths(self.holds(*arrays), lengths)

    def empty(self, batch: int, capacity: int, dtype: np.dtype) -> Any:
        """Return an empty cache for the specification. All its arrays are floats: even for a cache of
        codes, the specification stores code · scale.

        `dtype` is the type of the model's floats.
        """
        shapes = zip(self.shapes(batch, capacity), self.arrays, strict=True)
        return self.value([np.zeros((*s[:-1], array.numbers or s[-1]), dtype) for s, array in shapes])

    def copy_row(self, source: Arrays, row: int, target: Arrays, to: int, count: int) -> None:
        """Copy one row with its `count` tokens to row `to` of the given arrays. The target may be the same
        arrays.
        """
        for old, new, axis in zip(source, target, self._axes(), strict=True):
            part = _first(axis, count)
            new[(to, *part)] = old[(row, *part)]

    def replace_rows(self, arrays: Arrays, to: np.ndarray, rows: np.ndarray, count: int) -> None:
        """Copy the rows `rows` to the rows `to` of the same arrays, with `count` tokens each. All rows are
        read before any row is written.
        """
        for array, axis in zip(arrays, self._axes(), strict=True):
            part = _first(axis, count)
            # An index by arrays makes a copy first, so that a row may be read after it was overwritten.
            array[(to, *part)] = array[(rows, *part)]

    def keep_latest(self, arrays: Arrays, row: int, held: int) -> None:
        """Move the tokens that the window keeps to the front of a row. The row contains `held` tokens
        before that.
        """
        count = self.retained
        for array, axis in zip(arrays, self._axes(), strict=True):
            if axis is not None:
                before = (slice(None),) * (axis - 1)
                array[(row, *before, slice(count))] = array[(row, *before, slice(held - count, held))]

    def _axes(self) -> list[int | None]:
        """The index of the axis that counts tokens, for each array. It is None for an array without such
        an axis.
        """
        name = self.tokens_axis
        return [array.axes.index(name) if name in array.axes else None for array in self.arrays]


class RecurrentState(CacheKind):
    """A kind of cache that is a state of fixed size. The state is computed from all tokens together, so
    the last tokens can't be removed from it.
    """

    recurrent = True
    adds_up = True
    costly_runs = True

    def floor(self, lengths: np.ndarray, dropped: np.ndarray) -> np.ndarray:
        return lengths

    def why_not_shorter(self) -> str:
        return "the state of a recurrence can't be computed back to an earlier token"

    def with_lengths(self, cache: Any, lengths: Any) -> Any:
        return cache._replace(lengths=lengths)


# What the states of recurrences have in common. Each is a tuple of arrays [B, ...] and, last, `lengths`.
State = TypeVar("State", bound=tuple[Any, ...])


@property
def state_nbytes(self: tuple[Any, ...]) -> int:
    """Return the size of the state's arrays in bytes."""
    return sum(array.nbytes for array in self[:-1])


def state_rows(self: State, rows: Any) -> State:
    """Return a state of the batch rows with the given numbers, in the given order."""
    return type(self)(*(array[rows] for array in self[:-1]))


def same_state(self: State, capacity: int) -> State:
    """Return the state unchanged. This is what `grow` does for a state, which has room for any number of
    tokens.
    """
    return self


def _first(axis: int | None, count: int) -> tuple[slice, ...]:
    """Return an index of the first tokens of a row, for use after the index of the row."""
    return () if axis is None else (*(slice(None),) * (axis - 1), slice(count))
