"""The KV cache of an ONNX Runtime session: keys and values at fixed addresses, in memory of its device.

Same meaning as refimpl/engine's ArrayCache. A row of the batch is a contiguous slice, so that one
row can be run alone through a view. A *shared* cache is written in place; a *copied* one has a
second set of buffers, and the two change places at every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from ..refimpl.engine import check_lengths, check_rows
from ..refimpl.errors import TfmError


class Buffer:
    """One tensor at a fixed address: a NumPy array on the CPU, an OrtValue on a GPU."""

    def __init__(self, array: np.ndarray, device: str) -> None:
        self.shape, self.dtype, self.device = array.shape, array.dtype, device
        self._array = array if device == "cpu" else None
        self._value = None if device == "cpu" else ort.OrtValue.ortvalue_from_numpy(array, device, 0)
        self.pointer: int = array.ctypes.data if self._value is None else self._value.data_ptr()

    def read(self) -> np.ndarray:
        """The content: the memory itself on the CPU, a copy from elsewhere."""
        if self._value is None:
            assert self._array is not None
            return self._array
        return self._value.numpy()

    def write(self, array: np.ndarray) -> None:
        """Give back what `read` gave, changed."""
        if self._value is not None:
            self._value.update_inplace(array)

    def address(self, row: int) -> int:
        """Where row `row` of the first axis begins."""
        return self.pointer + row * (self.dtype.itemsize * int(np.prod(self.shape[1:])))


def zeros(shape: tuple[int, ...], dtype: np.dtype, device: str) -> Buffer:
    """A buffer of zeros: what a mask hides is multiplied by 0, and 0 · NaN would be NaN.

    On the CPU the system gives such memory page by page when it is first touched, so capacity that
    isn't used yet costs nothing.
    """
    return Buffer(np.zeros(shape, dtype), device)


@dataclass
class Memory:
    """What a decoder reads of an encoder's texts: keys and values [B, G, S, K] a layer, lengths [B].

    `texts` [B] numbers the texts: rows of one number hold the same, so that beams of one text, which
    change places at each step, copy nothing.
    """

    buffers: list[Buffer]
    lengths: Buffer
    texts: np.ndarray

    def moved(self, rows: np.ndarray) -> Memory:
        """New buffers that hold the named rows."""
        made = [Buffer(b.read()[rows], b.device) for b in self.buffers]
        return Memory(made, Buffer(self.lengths.read()[rows], self.lengths.device), self.texts[rows])

    def permuted(self, rows: np.ndarray) -> None:
        """As many rows as before, in place: only rows that get another text are copied."""
        texts = self.texts[rows]
        changed = np.flatnonzero(texts != self.texts)
        if not len(changed):
            return
        for buffer in (*self.buffers, self.lengths):
            array = buffer.read()
            array[changed] = array[rows[changed]]
            buffer.write(array)
        self.texts = texts


@dataclass
class State:
    """The buffers of a cache, [B, G, L, K] a layer and side; `spare` where a step copies.

    `bound` is the engine's: an io_binding for each direction, made at the first step on these buffers.
    """

    now: list[Buffer]
    spare: list[Buffer] | None
    memory: Memory | None = None
    bound: tuple | None = None

    @property
    def batch(self) -> int:
        return self.now[0].shape[0]

    @property
    def capacity(self) -> int:
        return self.now[0].shape[2]

    def swapped(self) -> State:
        """After a step: where the results lie is where the next one reads."""
        if self.spare is None:
            return self
        return State(self.spare, self.now, self.memory, self.bound and self.bound[::-1])

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
        made = []
        for old in self.now:
            _, g, _, k = old.shape
            new = zeros((len(rows), g, capacity, k), old.dtype, old.device)
            source, target = old.read(), new.read()
            for i, row in enumerate(rows):
                target[i, :, : lengths[i]] = source[row, :, : lengths[i]]
            new.write(target)
            made.append(new)
        spare = None if self.spare is None else [zeros(b.shape, b.dtype, b.device) for b in made]
        same = np.array_equal(rows, np.arange(self.batch))
        return State(made, spare, self.memory if self.memory is None or same else self.memory.moved(rows))

    def permuted(self, rows: np.ndarray, lengths: np.ndarray) -> None:
        """As many rows as before, in place: only rows that change are copied, up to the valid length."""
        if self.memory is not None:
            self.memory.permuted(rows)
        changed = np.flatnonzero(rows != np.arange(len(rows)))
        if not len(changed):
            return
        longest = int(lengths[changed].max())
        for buffer in self.now:
            array = buffer.read()
            # Indexing by a list copies, so a row may be read after it was overwritten.
            array[changed, :, :longest] = array[rows[changed], :, :longest]
            buffer.write(array)


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

    def take(self) -> State:
        """The buffers, once: whoever asks again holds a cache that a later step has overwritten."""
        state, self._state = self._state, None
        if state is None:
            raise TfmError("this cache was used already: go on with the one that step returned")
        return state

    def truncate(self, lengths: np.ndarray) -> Cache:
        return Cache(check_lengths(self._lengths, lengths), self.take())

    def select(self, rows: np.ndarray) -> Cache:
        rows = check_rows(len(self._lengths), rows)
        state, lengths = self.take(), self._lengths[rows]
        if len(rows) != state.batch:
            return Cache(lengths, state.moved(rows, lengths, state.capacity))
        state.permuted(rows, lengths)
        return Cache(lengths, state)
