"""Memory at a fixed address, on the CPU or a GPU, which a session reads and writes in place."""

from __future__ import annotations

import mmap
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

PAGES = 8  # a smaller buffer has too few pages that stay untouched


class DeviceBuffer:
    """One tensor at a fixed address: a NumPy array on the CPU, an OrtValue on a GPU."""

    def __init__(self, array: np.ndarray, device: str) -> None:
        self.shape, self.dtype, self.device = array.shape, array.dtype, device
        self._array = array if device == "cpu" else None
        self._value = None if device == "cpu" else ort.OrtValue.ortvalue_from_numpy(array, device, 0)
        self.pointer: int = array.ctypes.data if self._value is None else self._value.data_ptr()
        self.nbytes = array.nbytes

    def read(self) -> np.ndarray:
        """Return the content: the memory itself on the CPU, a copy on another device."""
        if self._value is None:
            assert self._array is not None
            return self._array
        return self._value.numpy()

    def write(self, array: np.ndarray) -> None:
        """Store the changed content of an array that `read` returned."""
        if self._value is not None:
            self._value.update_inplace(array)

    def fill(self, array: np.ndarray) -> None:
        """Copy an array into the buffer. The array must have the buffer's shape, or broadcast to it."""
        if self._value is not None:
            whole = np.broadcast_to(array, self.shape)
            self._value.update_inplace(np.ascontiguousarray(whole, self.dtype))
        else:
            assert self._array is not None
            self._array[...] = array

    def address(self, row: int) -> int:
        """Return the address of row `row` of the first axis."""
        return self.pointer + row * (self.dtype.itemsize * int(np.prod(self.shape[1:])))


def zeros(shape: tuple[int, ...], dtype: np.dtype, device: str) -> DeviceBuffer:
    """Return a buffer of zeros. Zeros are needed since masked values are multiplied by 0, and 0 · NaN is NaN.

    On the CPU, the operating system provides such memory page by page when it is first touched, so capacity
    that isn't used yet costs nothing. The memory is requested from the system directly. malloc may instead
    reuse memory that was freed before, and then clears all of it.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if device != "cpu" or size < PAGES * mmap.PAGESIZE:
        return DeviceBuffer(np.zeros(shape, dtype), device)
    return DeviceBuffer(np.ndarray(shape, dtype, mmap.mmap(-1, size, access=mmap.ACCESS_COPY)), device)


class Binding(NamedTuple):
    """An io_binding and the owners of its memory, since an io_binding knows only addresses.

    A Binding keeps the owners of memory that stays bound, and, by name, the owners of memory that each step
    binds anew.
    """

    io: ort.IOBinding
    owners: tuple[object, ...]
    arrays: dict[str, np.ndarray]
