"""The kernels' products with one scale a row, called through ctypes, and random cases of them."""

from __future__ import annotations

import ctypes as c
import math
from dataclasses import dataclass

import numpy as np
from numpy import ndarray as Array
from tfm.refimpl.ops import quant
from tfm.refimpl.ops.quant import Blocks

from .kernel_cases import VALUES
from .kernels import GUARD, TILE, Kernels, Runner, guarded, in_order, pool_of


class RowLinearCall(c.Structure):
    """kernels.h: `RowLinearCall`."""

    _fields_ = (
        *((name, c.c_void_p) for name in ("codes", "scales", "factors", "bias", "x", "y")),
        ("rows", c.c_size_t),
        *((name, c.c_int32) for name in ("outputs", "inputs", "columns")),
        ("gelu", c.c_bool),
    )


@dataclass(frozen=True, eq=False)
class RowCase:
    """A matrix [K, N] with a scale a column, rows [M, K] and a bias [N]."""

    w: Blocks
    x: Array
    bias: Array | None

    def expected(self) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            y = quant.linear_blocks(self.x[None], self.w)[0]
            return y if self.bias is None else y + self.bias


def matrix(rng: np.random.Generator, K: int, N: int, *, smoothed: bool) -> Blocks:
    """Random codes and scales, and factors of the inputs if it is smoothed."""
    codes = rng.integers(0, 256, (K, N)).astype(np.uint8)
    scale = (rng.standard_normal((1, N)) * 10.0 ** rng.integers(-3, 2)).astype(np.float32)
    factor = np.exp(rng.standard_normal(K)).astype(np.float32) if smoothed else None
    kind = "smoothed" if smoothed else "row"
    return Blocks(codes, scale, None, None, 8, K, 0, kind, input_factor=factor)


def random_row_case(seed: int) -> RowCase:
    """Of any size that fills a few tiles of outputs and panels of rows."""
    rng = np.random.default_rng(seed)
    N, K, M = (int(n) for n in rng.integers((1, 1, 0), (50, 300, 70)))
    bias = rng.standard_normal(N).astype(np.float32) if rng.random() < 0.5 else None
    x = VALUES[seed % len(VALUES)](rng, M, K).astype(np.float32)
    return RowCase(matrix(rng, K, N, smoothed=rng.random() < 0.5), x, bias)


def gelu(x: Array) -> Array:
    """Exact in float64 but for what is below 2^-1000."""
    return np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x.reshape(-1).tolist()]).reshape(x.shape)


def tiled(w: Blocks) -> tuple[Array, Array]:
    """Codes [T, inputs / 4, 16, 4] and scales [T, 16]; what fills them up is nothing that may count."""
    K, N = w.shape
    tiles, inputs = -(-N // TILE), -(-K // 16) * 16
    codes = np.full((tiles, inputs // 4, TILE, 4), GUARD, np.uint8)
    k, n = np.indices((K, N))
    codes[n // TILE, k // 4, n % TILE, k % 4] = w.codes
    scales = np.full(tiles * TILE, np.nan, np.float32)
    scales[:N] = w.scale[0]
    return codes, scales.reshape(tiles, TILE)


def row_linear(kernels: Kernels, case: RowCase, *, gelu: bool = False, runner: Runner = in_order) -> Array:
    """The product [M, N]; nothing is written beside it and the scratch memory."""
    (M, K), N = case.x.shape, case.w.shape[1]
    codes, scales = tiled(case.w)
    x = np.ascontiguousarray(case.x)
    y = guarded(M * N * 4)
    arrays = (codes, scales, case.w.input_factor, case.bias, x, y)
    at = [None if a is None else a.ctypes.data for a in arrays]
    call = RowLinearCall(*at, M, N, codes.shape[1] * 4, K, gelu)
    needed = kernels.row_linear_scratch(c.addressof(call))
    scratch = guarded(needed)
    kernels.row_linear(c.addressof(call), scratch.ctypes.data, pool_of(runner))
    assert (scratch[needed:] == GUARD).all(), "written behind the scratch memory"
    assert (y[M * N * 4 :] == GUARD).all(), "written behind the output"
    return y[: M * N * 4].view(np.float32).reshape(M, N)
