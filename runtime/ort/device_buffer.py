"""Allocate memory at a fixed address on the CPU or a GPU. A session reads and writes this memory in place."""

from __future__ import annotations

import mmap
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

PAGES = 8  # a smaller buffer has too few pages that stay untouched


class DeviceBuffer:
    """One tensor at a fixed address: a NumPy array on the CPU, or an OrtValue on a GPU."""

    def __init__(self, array: np.ndarray, device: str) -> None:
        self.shape, self.dtype, self.device = array.shape, array.dtype, device
        self._array = array if device == "cpu" else None
        self._value = None if device == "cpu" else ort.OrtValue.ortvalue_from_numpy(array, device, 0)
        self.pointer: int = array.ctypes.data if self._value is None else self._value.data_ptr()
        self.nbytes = array.nbytes

    def read(self) -> np.ndarray:
        """Return the content of the buffer: the memory itself on the CPU, a copy on a GPU."""
        if self._value is None:
            assert self._array is not None
            return self._array
        return self._value.numpy()

    def write(self, array: np.ndarray) -> None:
        """Store an array that `read` returned and the caller changed. On the CPU the change is already
        stored.
        """
        if self._value is not None:
            self._value.update_inplace(array)

    def fill(self, array: np.ndarray) -> None:
        """Copy an array into the buffer. The array must have the buffer's shape, or a shape that broadcasts
        to it.
        """
        if self._value is not None:
            whole = np.broadcast_to(array, self.shape)
            self._value.update_inplace(np.ascontiguousarray(whole, self.dtype))
        else:
            assert self._array is not None
            self._array[...] = array

    def address(self, row: int) -> int:
        """Return the memory address at which row `row` of the buffer's first axis begins."""
        return self.pointer + row * (self.dtype.itemsize * int(np.prod(self.shape[1:])))


def zeros(shape: tuple[int, ...], dtype: np.dtype, device: str) -> DeviceBuffer:
    """Return a buffer of zeros. Attention multiplies masked values by 0, and 0 · NaN is NaN, so the memory
    must not contain NaN.

    On the CPU, the operating system provides such memory page by page when a page is first touched, so
    unused capacity costs nothing. The function requests the memory directly from the system. malloc may
    instead reuse freed memory, and then clears all of it.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if device != "cpu" or size < PAGES * mmap.PAGESIZE:
        return DeviceBuffer(np.zeros(shape, dtype), device)
    return DeviceBuffer(np.ndarray(shape, dtype, mmap.mmap(-1, size, access=mmap.ACCESS_COPY)), device)


class Binding(NamedTuple):
    """An io_binding of ONNX Runtime, together with the objects that own its memory. An io_binding stores only
    addresses.

    - `owners`: the owners of memory that stays bound.
    - `arrays`: a dict from names to the arrays that each step binds again.
    """

    io: ort.IOBinding
    owners: tuple[object, ...]
    arrays: dict[str, np.ndarray]
