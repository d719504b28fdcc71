"""The library of kernels by ctypes, and matrices packed for it as `kernels.h` says, number by number."""

from __future__ import annotations

import ctypes as c
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tfm.refimpl.ops.quant import Blocks
from tfm.runtime.kernels.library import INSTRUCTION_SETS
from tfm.runtime.kernels.probe_program import BlockMatrix, Pool, Run

TILE = 16
# Runs a task for 0 .. count - 1, in an order of its own.
Runner = Callable[[Callable[[int], None], int], None]
GUARD = 0xA5
# Widths of the planes of a code, by its bits.
PLANES = {2: (2,), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}
LOOKED_UP = 9  # planes.h: codes of 8 bits by a table
FORMS = (*PLANES, LOOKED_UP)
SCALE_TYPES = ("float32", "float16", "codes")  # kernels.h: `ScaleType`
# Codes [N, C] and factors [N, S] of scales, and of lowest numbers.
Coded = list[tuple[np.ndarray, np.ndarray]]


def lowest(bits: int) -> np.float32:
    """Scales from a block's minimum down to its lowest number."""
    return np.float32(16 if bits == 8 else 2 ** (bits - 1))


MATRIX = c.POINTER(BlockMatrix)
LINEAR = c.CFUNCTYPE(None, MATRIX, c.c_void_p, c.c_void_p, c.c_size_t, c.c_void_p, c.c_void_p, Pool)


class Kernels(c.Structure):
    _fields_ = [
        ("name", c.c_char_p),
        ("linear", LINEAR),
        ("linear_scratch", c.CFUNCTYPE(c.c_size_t, MATRIX, c.c_size_t)),
        ("gather", c.CFUNCTYPE(c.c_bool, MATRIX, c.c_void_p, c.c_size_t, c.c_void_p)),
        ("attention", c.CFUNCTYPE(c.c_int32, c.c_void_p, c.c_void_p, Pool)),
        ("attention_scratch", c.CFUNCTYPE(c.c_size_t, c.c_void_p)),
        ("swiglu", c.CFUNCTYPE(None, c.c_void_p, Pool)),
        ("add_norm", c.CFUNCTYPE(None, c.c_void_p, Pool)),
        ("add_layer_norm", c.CFUNCTYPE(None, c.c_void_p, Pool)),
        ("row_linear", c.CFUNCTYPE(None, c.c_void_p, c.c_void_p, Pool)),
        ("row_linear_scratch", c.CFUNCTYPE(c.c_size_t, c.c_void_p)),
        ("causal_conv", c.CFUNCTYPE(c.c_bool, c.c_void_p, Pool)),
        ("linear_attention", c.CFUNCTYPE(None, c.c_void_p, Pool)),
        ("experts", c.CFUNCTYPE(None, c.c_void_p, c.c_void_p, Pool)),
        ("experts_scratch", c.CFUNCTYPE(c.c_size_t, c.c_void_p)),
        ("pointwise", c.CFUNCTYPE(None, c.c_void_p, Pool)),
        ("softmax", c.CFUNCTYPE(None, c.c_void_p, Pool)),
        ("row_sum", c.CFUNCTYPE(None, c.c_void_p, Pool)),
        ("float_linear", c.CFUNCTYPE(None, c.c_void_p, Pool)),
    ]


def load(path: Path) -> c.CDLL:
    """The library."""
    library = c.CDLL(str(path))
    library.tfm_kernels.restype = c.POINTER(Kernels)
    library.tfm_use.restype = c.c_bool
    library.tfm_instruction_set.restype = c.c_char_p
    return library


def available(library: c.CDLL) -> dict[str, Kernels]:
    """The kernels of each instruction set that this processor has."""
    pointers = {name: library.tfm_kernels(name.encode()) for name in INSTRUCTION_SETS}
    return {name: pointer.contents for name, pointer in pointers.items() if pointer}


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix [N, K] as the kernels read it: codes, scales, zero points and minima by tiles."""

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None
    minima: np.ndarray | None
    factors: np.ndarray | None
    table: np.ndarray | None
    outputs: int
    columns: int
    block: int
    bits: int
    swiglu: bool = False  # the first half of the outputs are gates of the second

    @property
    def matrix(self) -> BlockMatrix:
        """What the kernels take; this object must outlive it."""
        parts = (self.codes, self.scales, self.zeros, self.minima, self.factors, self.table)
        inputs = self.scales.shape[1] * self.block
        sizes = (self.outputs, inputs, self.columns, self.block, self.bits)
        scale_type = ("float32", "float16", "int8").index(self.scales.dtype.name)
        return BlockMatrix(
            *(None if part is None else part.ctypes.data for part in parts), *sizes, scale_type, self.swiglu
        )


def pack(
    w: Blocks, scales: str = "float32", coded: Coded | None = None, table: np.ndarray | None = None
) -> Packed:
    """A matrix that is blocked along axis 1, with scales and lowest numbers of that type, or as these codes,
    which changes none; what fills tiles and blocks up is nothing that may count. Its codes may be those of a
    `table` [16], of which each may be there twice."""
    N, K = w.shape
    tiles, blocks = -(-N // TILE), -(-K // w.block)
    bits, left = w.bits, w.codes
    if table is not None:
        order = np.argsort(table, kind="stable").astype(np.uint8)
        bits, left = 4, order[np.searchsorted(table[order], w.codes)]
        assert np.array_equal(table[left], w.codes)
    codes = np.full((tiles, blocks * w.block // TILE, 32 * bits), GUARD, np.uint8)
    n, k = np.indices((N, K))
    g, j, begin = k // 4 % 4, n % TILE * 4 + k % 4, 0
    for width in PLANES[bits]:
        byte = {8: g * 64 + j, 4: g // 2 * 64 + j, 2: j, 1: j % 32}[width]
        shift = {8: 0 * g, 4: g % 2 * 4, 2: g * 2, 1: g + j // 32 * 4}[width].astype(np.uint8)
        at, mask = (n // TILE, k // TILE, begin + byte), np.uint8(2**width - 1)
        np.bitwise_and.at(codes, at, ~(mask << shift))
        np.bitwise_or.at(codes, at, (left & mask) << shift)
        begin, left = begin + 32 * width, left >> width
    n, c = np.indices((N, blocks))
    by_tile = (n // TILE, c, n % TILE)

    def tiled(part: np.ndarray, filler: float) -> np.ndarray:
        out = np.full((tiles, part.shape[1], TILE), filler, part.dtype)
        n, c = np.indices(part.shape)
        out[n // TILE, c, n % TILE] = part
        return out

    zeros = minima = factors = None
    if coded is not None:
        scale, *minimum = (tiled(part, 85) for part, _ in coded)
        minima = minimum[0] if minimum else None
        factors = np.stack([tiled(part, np.nan) for _, part in coded], axis=2)
    else:
        dtype, shift = (np.float32, 0) if scales == "float32" else (np.float16, lowest(w.bits))
        scale = tiled(w.scale.astype(dtype), np.nan)
        assert np.array_equal(scale[by_tile], w.scale)
        if w.minimum is not None:
            minima = tiled((w.minimum - shift * w.scale).astype(dtype), np.nan)
            assert np.array_equal(minima[by_tile] + np.float32(shift) * w.scale, w.minimum)
    if w.zero is not None:
        zeros = tiled(w.zero, GUARD)
    return Packed(codes, scale, zeros, minima, factors, table, N, K, w.block, bits)


def in_order(task: Callable[[int], None], count: int) -> None:
    """One thread, from the first to the last."""
    for index in range(count):
        task(index)


def in_threads(task: Callable[[int], None], count: int) -> None:
    """Three threads, beginning with the last."""
    with ThreadPoolExecutor(3) as executor:
        list(executor.map(task, reversed(range(count))))


def pool_of(runner: Runner) -> Pool:
    """A pool whose tasks this function runs."""

    @Run
    def run(_owner: int, task: Callable[[int, int], None], count: int, data: int) -> None:
        runner(lambda index: task(data, index), count)

    return Pool(None, run)


def linear(
    kernels: Kernels, w: Packed, x: np.ndarray, bias: np.ndarray | None = None, runner: Runner = in_order
) -> np.ndarray:
    """The product [M, N] of rows [M, K], with gates [M, N / 2]; only that and the scratch are written."""
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    rows, matrix, outputs = len(x), w.matrix, w.outputs // (1 + w.swiglu)
    scratch_bytes, y_bytes = kernels.linear_scratch(matrix, rows), rows * outputs * 4
    scratch, y = guarded(scratch_bytes), guarded(y_bytes)
    bias_at = None if bias is None else bias.ctypes.data
    kernels.linear(matrix, bias_at, x.ctypes.data, rows, y.ctypes.data, scratch.ctypes.data, pool_of(runner))
    assert (scratch[scratch_bytes:] == GUARD).all(), "written behind the scratch memory"
    assert (y[y_bytes:] == GUARD).all(), "written behind the output"
    return y[:y_bytes].view(np.float32).reshape(rows, outputs)


class SwigluCall(c.Structure):
    """kernels.h: `SwigluCall`."""

    _fields_ = (("x", c.c_void_p), ("y", c.c_void_p), ("rows", c.c_size_t), ("width", c.c_size_t))


def swiglu(kernels: Kernels, x: np.ndarray, runner: Runner = in_order) -> np.ndarray:
    """Gates [M, F] times what stands beside them, of x [M, 2F]."""
    rows, width = len(x), x.shape[1] // 2
    y = guarded(rows * width * 4)
    call = SwigluCall(x.ctypes.data, y.ctypes.data, rows, width)
    kernels.swiglu(c.addressof(call), pool_of(runner))
    assert (y[rows * width * 4 :] == GUARD).all(), "written behind the output"
    return y[: rows * width * 4].view(np.float32).reshape(rows, width)


def gather(kernels: Kernels, w: Packed, ids: np.ndarray) -> np.ndarray | None:
    """Rows [M, K] of a table; None where an id isn't one of its rows."""
    assert ids.dtype == np.int64
    y = np.empty((len(ids), w.columns), np.float32)
    return y if kernels.gather(w.matrix, ids.ctypes.data, len(ids), y.ctypes.data) else None


def guarded(size: int) -> np.ndarray:
    """Bytes at an address that 64 divides, and 64 more behind them."""
    memory = np.full(size + 128, GUARD, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size + 64]


def bits_of(a: np.ndarray) -> np.ndarray:
    """Floats as integers, of which those of all NaN are one; integers as they are."""
    if a.dtype.kind != "f":
        return a
    return np.where(np.isnan(a), a.dtype.type(np.nan), a).view(f"i{a.itemsize}")
