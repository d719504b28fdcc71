"""The KV cache of an ONNX Runtime session: keys and values at fixed addresses, in memory of its device.

Same meaning as refimpl/array_engine's ArrayCache. A row of the batch is a contiguous slice, so that one
row can be run alone through a view. A *shared* cache is written in place; a *copied* one has a
second set of buffers, and the two change places at every step.

In a *windowed* cache the buffers of layers with a window have few places and hold the latest tokens of
a row, from place 0 on. When they are full, all are dropped but those that the window may still reach
and `windows.SLACK` more, so that as many can always be cut back. `refimpl.ops.window_cache` specifies
what is seen and what can be cut back; its ring would save the moving, but no fused operator reads one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...refimpl.engine.protocol import check_lengths, check_rows
from ...refimpl.errors import TfmError
from ..bundle import window_sizes
from .device_buffer import Buffer, zeros
from .encoder_kv import Memory


@dataclass
class State:
    """The buffers of a cache, [B, G, L, K] a layer and side; `spare` where a step copies.

    A text has room for `capacity` tokens. `windows` says of each buffer how many tokens its layer sees,
    None where it keeps all, and `dropped` [B] by window how many of a row the buffers hold no more. They have
    place for `piece` tokens beside those that stay.
    `bound` is the engine's: an io_binding for each direction, made at the first step on these buffers.
    """

    now: list[Buffer]
    spare: list[Buffer] | None
    capacity: int
    windows: tuple[int | None, ...]
    dropped: dict[int, np.ndarray]
    piece: int
    memory: Memory | None = None
    bound: tuple | None = None

    @property
    def batch(self) -> int:
        return self.now[0].shape[0]

    def held(self, lengths: np.ndarray) -> dict[int, np.ndarray]:
        """How many tokens of rows of these lengths the buffers of each window hold."""
        return {size: lengths - dropped for size, dropped in self.dropped.items()}

    def floor(self) -> np.ndarray:
        """The least length above 0 that each row can be cut to: the next token's window is there in whole."""
        floors = [np.where(gone > 0, gone + size - 1, 0) for size, gone in self.dropped.items()]
        return np.max(floors, axis=0) if floors else np.zeros(self.batch, np.int64)

    def make_room(self, lengths: np.ndarray, new: np.ndarray) -> None:
        """Drop old tokens of each row whose buffers have no place for `new` [B] more."""
        for size, held in self.held(lengths).items():
            full = np.flatnonzero(
                (new > 0) & (held + new > window_sizes.places(size, self.capacity, self.piece))
            )
            keep = window_sizes.kept(size)
            for buffer in self._of(size) if len(full) else ():
                array = buffer.read()
                for row in full:
                    array[row, :, :keep] = array[row, :, held[row] - keep : held[row]]
                buffer.write(array)
            self.dropped[size][full] += held[full] - keep

    def cut(self, lengths: np.ndarray) -> None:
        """After rows were cut to these lengths: what is empty has dropped nothing."""
        for gone in self.dropped.values():
            gone[lengths == 0] = 0

    def swapped(self) -> State:
        """After a step: where the results lie is where the next one reads."""
        if self.spare is None:
            return self
        return replace(self, now=self.spare, spare=self.now, bound=self.bound and self.bound[::-1])

    def keep(self, row: int, length: int) -> None:
        """After a step of one row alone: where it was copied, it goes back to where the other rows lie."""
        if self.spare is None:
            return
        for old, new in zip(self.now, self.spare, strict=True):
            array = old.read()
            array[row, :, :length] = new.read()[row, :, :length]
            old.write(array)

    def moved(self, rows: np.ndarray, lengths: np.ndarray, capacity: int) -> State:
        """New buffers that hold the named rows, each up to its valid length, and what these read."""
        made, dropped = [], {size: gone[rows] for size, gone in self.dropped.items()}
        for old, size in zip(self.now, self.windows, strict=True):
            _, g, _, k = old.shape
            new = zeros(
                (len(rows), g, window_sizes.places(size, capacity, self.piece), k), old.dtype, old.device
            )
            source, target = old.read(), new.read()
            held = lengths if size is None else lengths - dropped[size]
            for i, row in enumerate(rows):
                target[i, :, : held[i]] = source[row, :, : held[i]]
            new.write(target)
            made.append(new)
        spare = None if self.spare is None else [zeros(b.shape, b.dtype, b.device) for b in made]
        same = np.array_equal(rows, np.arange(self.batch))
        memory = self.memory if self.memory is None or same else self.memory.moved(rows)
        return State(made, spare, capacity, self.windows, dropped, self.piece, memory)

    def permuted(self, rows: np.ndarray, lengths: np.ndarray) -> None:
        """As many rows as before, in place: only rows that change are copied, up to the valid length."""
        if self.memory is not None:
            self.memory.permuted(rows)
        changed = np.flatnonzero(rows != np.arange(len(rows)))
        if not len(changed):
            return
        self.dropped = {size: gone[rows] for size, gone in self.dropped.items()}
        for buffer, size in zip(self.now, self.windows, strict=True):
            held = lengths if size is None else lengths - self.dropped[size]
            longest = int(held[changed].max())
            array = buffer.read()
            # Indexing by a list copies, so a row may be read after it was overwritten.
            array[changed, :, :longest] = array[rows[changed], :, :longest]
            buffer.write(array)

    def _of(self, window: int) -> list[Buffer]:
        return [buffer for buffer, size in zip(self.now, self.windows, strict=True) if size == window]


class Cache:
    """`lengths` tokens of each row, room for `capacity`; dead after its first use."""

    def __init__(self, lengths: np.ndarray, state: State) -> None:
        self._lengths, self._capacity = lengths, state.capacity
        self._state: State | None = state

    @property
    def lengths(self) -> np.ndarray:
        return self._lengths

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def floor(self) -> np.ndarray:
        return self._alive().floor()

    def take(self) -> State:
        """The buffers, once: whoever asks again holds a cache that a later step has overwritten."""
        state = self._alive()
        self._state = None
        return state

    def truncate(self, lengths: np.ndarray) -> Cache:
        lengths = check_lengths(self._lengths, lengths, self.floor)
        state = self.take()
        state.cut(lengths)
        return Cache(lengths, state)

    def select(self, rows: np.ndarray) -> Cache:
        rows = check_rows(len(self._lengths), rows)
        state, lengths = self.take(), self._lengths[rows]
        if len(rows) != state.batch:
            return Cache(lengths, state.moved(rows, lengths, state.capacity))
        state.permuted(rows, lengths)
        return Cache(lengths, state)

    def _alive(self) -> State:
        if self._state is None:
            raise TfmError("this cache was used already: go on with the one that step returned")
        return self._state
