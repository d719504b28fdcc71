"""Store the cache of an ONNX Runtime session: arrays at fixed addresses, in memory of the session's device.

The cache has the same meaning as `refimpl.engine.numpy_engine.ArrayCache`. The arrays of a layer depend on
the kind of its cache (`refimpl.engine.cache_kinds`). A row of the batch is a contiguous slice, so one row
can run alone on a view of its memory.

A step writes into a *shared* cache in place. An example is a row of 5 tokens in a cache of capacity 8, and
a step of 2 tokens:

    before     k0 k1 k2 k3 k4  .  .  .    length 5
    step       k0 k1 k2 k3 k4 k5 k6  .    length 7: two entries written, none copied
    truncate   k0 k1 k2 k3 k4 k5 k6  .    length 6: k6 is never read, and the next step overwrites it

In a *copied* cache, a step reads one set of buffers and writes a second set. Then the two sets trade
places.

In a *windowed* cache, layers with a window have short buffers. The docstring of `refimpl.ops.cache_kind`
has a drawing of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...refimpl.engine.cache_kinds import CacheKind, check_lengths, floor, windows
from ...refimpl.engine.protocol import (
    Cache,
    check_put,
    check_rows,
    foreign_cache_error,
    used_cache_error,
)
from ...refimpl.errors import LimitError
from ...refimpl.ops.cross_attention import EncoderKV as Arrays
from .decode_step import DecodeSteps
from .device_buffer import Binding, DeviceBuffer, zeros
from .encoder_kv import EncoderKV

Layer = list[DeviceBuffer]  # the arrays of one layer, as its kind names them


@dataclass
class CacheBuffers:
    """The buffers of a cache, layer by layer, for all rows of a batch.

    - `kinds`: the kind of each layer's cache.
    - `layers`: the arrays of each layer.
    - `spare`: the second set of arrays of a copied cache, which the next step writes; None for other caches.
    - `capacity`: the number of tokens for which each row has room.
    - `chunk`: the number of new tokens for which short buffers have room, besides the tokens of the window.
    - `dropped`: a dict from each window to the number of tokens [B] of each row that its layers no longer
      hold.
    - `encoder_kv`: the keys and values of the encoder's texts.
    - `bindings`: the engine's bindings for this step, and for the next step with the two sets exchanged;
      None before the first step.
    - `decode_steps`: the steps of one token per row; None before the first such step.
    - `exchanged`: the decode steps begin with the second set.
    """

    kinds: tuple[CacheKind, ...]
    layers: list[Layer]
    spare: list[Layer] | None
    capacity: int
    chunk: int
    dropped: dict[int, np.ndarray]
    encoder_kv: EncoderKV | None = None
    bindings: tuple[Binding, Binding] | None = None
    decode_steps: DecodeSteps | None = None
    exchanged: bool = False

    @property
    def batch(self) -> int:
        return self.layers[0][0].shape[0]

    @property
    def nbytes(self) -> int:
        buffers = [*flat(self.layers), *flat(self.spare or [])]
        encoder = 0 if self.encoder_kv is None else self.encoder_kv.nbytes
        return sum(buffer.nbytes for buffer in buffers) + encoder

    def entries(self) -> dict[int | None, int]:
        """Return the number of tokens for which a row has room, by the window of a layer. The key None means
        layers without a window.
        """
        rooms: dict[int | None, int] = {None: self.capacity}
        return rooms | {kind.window: kind.entries(self.capacity, self.chunk) for kind in self.kinds}

    def window_lengths(self, lengths: np.ndarray) -> dict[int, np.ndarray]:
        """Return how many tokens [B] the layers of each window hold, if the rows contain `lengths` [B]
        tokens.
        """
        return {window: lengths - dropped for window, dropped in self.dropped.items()}

    def make_room(self, lengths: np.ndarray, new: np.ndarray | int) -> None:
        """Drop the oldest tokens of each row that has no room for `new` more tokens in the layers with a
        window.

        `new` is one number for all rows, or an array [B] with one number for each row.
        """
        for window, in_cache in self.window_lengths(lengths).items():
            of_window = [i for i, kind in enumerate(self.kinds) if kind.window == window]
            kind = self.kinds[of_window[0]]
            full = np.flatnonzero((new > 0) & (in_cache + new > kind.entries(self.capacity, self.chunk)))
            if not len(full):
                continue
            for i in of_window:
                arrays = _read(self.layers[i])
                for row in full.tolist():
                    self.kinds[i].keep_latest(arrays, row, int(in_cache[row]))
                _write(self.layers[i], arrays)
            self.dropped[window][full] += in_cache[full] - kind.retained

    def truncate(self, lengths: np.ndarray) -> None:
        """Update the counts of dropped tokens after rows were truncated to `lengths` [B]. A row without
        tokens gets the count 0.
        """
        for dropped in self.dropped.values():
            dropped[lengths == 0] = 0

    def swapped(self) -> CacheBuffers:
        """Return the buffers for the next step. In a copied cache, the next step reads the set of buffers
        that this step wrote.
        """
        if self.spare is None:
            return self
        bindings = None if self.bindings is None else self.bindings[::-1]
        return replace(
            self, layers=self.spare, spare=self.layers, bindings=bindings, exchanged=not self.exchanged
        )

    def keep_row(self, row: int, length: int) -> None:
        """Copy one row of a copied cache back to the set of buffers that the other rows use. This is needed
        after a step of only this row.
        """
        if self.spare is None:
            return
        for kind, old, new in zip(self.kinds, self.layers, self.spare, strict=True):
            arrays = _read(old)
            kind.copy_row(_read(new), row, arrays, row, length)
            _write(old, arrays)

    def reallocated(self, rows: np.ndarray, lengths: np.ndarray, capacity: int) -> CacheBuffers:
        """Return new buffers with copies of the given rows, cut to `lengths` [R], and with room for
        `capacity` tokens.
        """
        dropped = {window: count[rows] for window, count in self.dropped.items()}
        layers = []
        for kind, old in zip(self.kinds, self.layers, strict=True):
            shapes = kind.shapes(len(rows), capacity, self.chunk)
            new = [zeros(shape, b.dtype, b.device) for shape, b in zip(shapes, old, strict=True)]
            source, target = _read(old), _read(new)
            in_cache = lengths if kind.window is None else lengths - dropped[kind.window]
            for i, row in enumerate(rows.tolist()):
                kind.copy_row(source, row, target, i, int(in_cache[i]))
            _write(new, target)
            layers.append(new)
        spare = None
        if self.spare is not None:
            spare = [[zeros(b.shape, b.dtype, b.device) for b in layer] for layer in layers]
        encoder_kv = self.encoder_kv
        if encoder_kv is not None and not np.array_equal(rows, np.arange(self.batch)):
            encoder_kv = encoder_kv.selected(rows)
        return CacheBuffers(self.kinds, layers, spare, capacity, self.chunk, dropped, encoder_kv)

    def put(self, row: int, one: CacheBuffers, length: int) -> None:
        """Copy the first `length` tokens of another cache to row `row`. The other cache, `one`, must have one
        row.
        """
        for window, dropped in self.dropped.items():
            dropped[row] = one.dropped[window][0] if length else 0
        for kind, old, new in zip(self.kinds, one.layers, self.layers, strict=True):
            dropped = {window: int(count[row]) for window, count in self.dropped.items()}
            arrays = _read(new)
            kind.copy_row(_read(old), 0, arrays, row, _held(kind, length, dropped))
            _write(new, arrays)

    def permute(self, rows: np.ndarray, lengths: np.ndarray) -> None:
        """Reorder the rows in place: row i becomes a copy of row `rows[i]`. The number of rows stays the
        same.

        Only rows that change are copied, up to the largest of their lengths.
        """
        kv = self.encoder_kv
        if kv is not None and (kv.texts[rows] != kv.texts).any():
            self.encoder_kv, self.bindings, self.decode_steps = kv.selected(rows), None, None
        changed = np.flatnonzero(rows != np.arange(len(rows)))
        if not len(changed):
            return
        self.dropped = {window: count[rows] for window, count in self.dropped.items()}
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            in_cache = lengths if kind.window is None else lengths - self.dropped[kind.window]
            arrays = _read(layer)
            kind.replace_rows(arrays, changed, rows[changed], int(in_cache[changed].max()))
            _write(layer, arrays)


def empty(
    kinds: tuple[CacheKind, ...],
    batch: int,
    capacity: int,
    dtype: np.dtype,
    device: str,
    *,
    chunk: int,
    copied: bool,
) -> CacheBuffers:
    """Allocate the buffers of a new cache. `dtype` is the type of the model's floats. `copied` adds the
    second set of a copied cache.
    """

    def layers() -> list[Layer]:
        return [
            [
                zeros(shape, of, device)
                for shape, of in zip(kind.shapes(batch, capacity, chunk), kind.dtypes(dtype), strict=True)
            ]
            for kind in kinds
        ]

    dropped = {window: np.zeros(batch, np.int64) for window in windows(kinds)}
    spare = layers() if copied else None
    return CacheBuffers(kinds, layers(), spare, capacity, chunk, dropped)


def flat(layers: Sequence[Layer]) -> list[DeviceBuffer]:
    """Return the buffers of all layers as one list, in the order of `cache_kinds.array_names`."""
    return [buffer for layer in layers for buffer in layer]


def _held(kind: CacheKind, length: int, dropped: dict[int, int]) -> int:
    """Return how many tokens a layer of this kind holds of a row with `length` tokens."""
    return length if kind.window is None else length - dropped[kind.window]


def _read(layer: Layer) -> list[np.ndarray]:
    return [buffer.read() for buffer in layer]


def _write(layer: Layer, arrays: list[np.ndarray]) -> None:
    for buffer, array in zip(layer, arrays, strict=True):
        buffer.write(array)


class OrtCache:
    """The cache of a session: `lengths` [B] tokens of each row, with room for `capacity` tokens per row.

    Only one step can use a cache object. After that step, the object is invalid.
    """

    def __init__(self, lengths: np.ndarray, buffers: CacheBuffers) -> None:
        self._lengths, self._capacity = lengths, buffers.capacity
        self._buffers: CacheBuffers | None = buffers

    @property
    def lengths(self) -> np.ndarray:
        return self._lengths

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def nbytes(self) -> int:
        return self._alive().nbytes

    @property
    def floor(self) -> np.ndarray:
        buffers = self._alive()
        return floor(buffers.kinds, self._lengths, buffers.dropped)

    def take(self) -> CacheBuffers:
        """Return the buffers, and make this object invalid. A second call raises an error, because the step
        after the first call overwrites the cache.
        """
        buffers = self._alive()
        self._buffers = None
        return buffers

    def truncate(self, lengths: np.ndarray) -> OrtCache:
        buffers = self._alive()
        lengths = check_lengths(buffers.kinds, self._lengths, lengths, buffers.dropped)
        self.take().truncate(lengths)
        return OrtCache(lengths, buffers)

    def select(self, rows: np.ndarray) -> OrtCache:
        rows = check_rows(len(self._lengths), rows)
        buffers, lengths = self.take(), self._lengths[rows]
        if len(rows) != buffers.batch:
            return OrtCache(lengths, buffers.reallocated(rows, lengths, buffers.capacity))
        buffers.permute(rows, lengths)
        return OrtCache(lengths, buffers)

    def grow(self, capacity: int) -> OrtCache:
        buffers = self.take()
        if capacity > buffers.capacity:
            buffers = buffers.reallocated(np.arange(buffers.batch), self._lengths, capacity)
        return OrtCache(self._lengths, buffers)

    def copy(self, row: int) -> OrtCache:
        rows = check_rows(len(self._lengths), np.array([row]))
        lengths = self._lengths[rows]
        return OrtCache(lengths, self._alive().reallocated(rows, lengths, max(int(lengths[0]), 1)))

    def put(self, row: int, cache: Cache, length: int) -> OrtCache:
        if not isinstance(cache, OrtCache):
            raise foreign_cache_error(cache)
        check_put(self, row, cache)
        source = cache._alive()
        (count,) = check_lengths(source.kinds, cache.lengths, np.array([length]), source.dropped)
        buffers = self.grow(length).take()
        buffers.put(row, source, int(count))
        lengths = self._lengths.copy()
        lengths[row] = count
        return OrtCache(lengths, buffers)

    def encoder_kv(self) -> list[Arrays]:
        """Return the encoder's keys and values for each layer of the decoder, as arrays of the
        specification.
        """
        read = self._alive().encoder_kv
        assert read is not None
        arrays = [buffer.read().astype(np.float32) for buffer in read.buffers]
        lengths = read.lengths.read()
        return [Arrays(*pair, lengths) for pair in zip(arrays[::2], arrays[1::2], strict=True)]

    def content(self) -> tuple[dict[int, int], list[np.ndarray]]:
        """Return the content of a cache with one row: how many tokens each window's layers dropped, and the
        arrays with the remaining tokens.
        """
        buffers, length = self._alive(), int(self._lengths[0])
        dropped = {window: int(count[0]) for window, count in buffers.dropped.items()}
        parts: list[np.ndarray] = []
        shapes = iter(self.content_shapes(length, dropped))
        for kind, layer in zip(buffers.kinds, buffers.layers, strict=True):
            part = [np.zeros(*next(shapes)) for _ in layer]
            kind.copy_row(_read(layer), 0, part, 0, _held(kind, length, dropped))
            parts += part
        return dropped, parts

    def content_shapes(self, length: int, dropped: dict[int, int]) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Return the shape and type of each array that `content` returns for a cache of `length` tokens.

        `dropped` gives the number of dropped tokens by window. Raises LimitError if the layers have no
        room for the remaining tokens.
        """
        buffers, shapes = self._alive(), []
        for kind, layer in zip(buffers.kinds, buffers.layers, strict=True):
            held = _held(kind, length, dropped)
            if not 0 <= held <= kind.entries(buffers.capacity, buffers.chunk):
                raise LimitError(
                    f"the cache of a layer can store at most {kind.entries(buffers.capacity, buffers.chunk)} "
                    f"tokens, got {held}"
                )
            parts = kind.shapes(1, held, buffers.chunk)
            shapes += [(shape, buffer.dtype) for shape, buffer in zip(parts, layer, strict=True)]
        return shapes

    def filled(self, length: int, dropped: dict[int, int], arrays: Sequence[np.ndarray]) -> OrtCache:
        """Return a cache of one row and `length` tokens, filled with the arrays that `content` returned."""
        buffers, rest = self.take(), iter(arrays)
        for kind, layer in zip(buffers.kinds, buffers.layers, strict=True):
            target = _read(layer)
            kind.copy_row([next(rest) for _ in layer], 0, target, 0, _held(kind, length, dropped))
            _write(layer, target)
        buffers.dropped = {window: np.array([count]) for window, count in dropped.items()}
        return OrtCache(np.array([length]), buffers)

    def _alive(self) -> CacheBuffers:
        if self._buffers is None:
            raise used_cache_error()
        return self._buffers
