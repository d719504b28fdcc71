"""Products of random blocks with rows that are usual, halfway between codes, or strange."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from tfm.refimpl.ops import quant
from tfm.refimpl.ops.quant import Blocks

from .kernels import FORMS, LOOKED_UP, SCALE_TYPES, Coded, Packed, lowest, pack


def table(
    rng: np.random.Generator, N: int, K: int, *, bits: int, block: int, zero: bool, minimum: bool = False
) -> Blocks:
    """A random matrix [N, K] with blocks along K; of a table codes are of 8 bits, zeros and minima absent."""
    C = -(-K // block)
    if bits == LOOKED_UP:
        bits, zero, minimum = 8, False, False
        low, high = (0, 256) if rng.random() < 0.5 else (96, 160)  # as AVX2 has two ways
        codes = rng.choice(rng.integers(low, high, 16).astype(np.uint8), (N, K))
    else:
        codes = rng.integers(0, 2**bits, (N, K)).astype(np.uint8)
    scale = (rng.standard_normal((N, C)) * 10.0 ** rng.integers(-3, 2)).astype(np.float32)
    zeros = rng.integers(0, 2**bits, (N, C)).astype(np.uint8) if zero else None
    minima = (
        (rng.standard_normal((N, C)) * 10.0 ** rng.integers(-3, 2)).astype(np.float32) if minimum else None
    )
    return Blocks(codes, scale, zeros, minima, bits, block, 1, "block")


def normal(rng: np.random.Generator, M: int, K: int) -> np.ndarray:
    return rng.standard_normal((M, K)) * 10.0 ** rng.integers(-4, 4, (M, 1))


def tied(rng: np.random.Generator, M: int, K: int) -> np.ndarray:
    """Multiples of half a step, of which half lie between two codes."""
    x = rng.integers(-254, 255, (M, K)) / 2
    x[:, ::16] = 127
    return x


def strange(rng: np.random.Generator, M: int, K: int) -> np.ndarray:
    """Each row has zeros, subnormal or huge numbers in some blocks, and one in three isn't finite."""
    x = rng.standard_normal((M, K))
    factors = [0, -0.0, 1e-45, 1e-39, 3.7e-37, 3.8e-37, 1e30, 1e39]
    x *= np.repeat(rng.choice(factors, (M, -(-K // 16))), 16, axis=1)[:, :K]
    for m in np.flatnonzero(rng.random(M) < 1 / 3):
        x[m, rng.integers(K)] = rng.choice([np.nan, np.inf, -np.inf])
    most = np.finfo(np.float32).max
    return np.clip(x, -most, most, where=np.isfinite(x), out=x)


@dataclass(frozen=True)
class Case:
    w: Blocks
    x: np.ndarray
    bias: np.ndarray | None
    scales: str = "float32"  # of which type scales and lowest numbers are packed
    coded: Coded | None = None  # their codes and factors
    table: np.ndarray | None = None  # of its codes

    def packed(self) -> Packed:
        return pack(self.w, self.scales, self.coded, self.table)

    def looked_up(self, rng: np.random.Generator) -> Case:
        """With the codes of a table in any order, some of which may be there twice."""
        codes = np.unique(self.w.codes)
        return replace(self, table=rng.permutation(np.pad(codes, (0, 16 - len(codes)), mode="edge")))

    def of_type(self, scales: str, rng: np.random.Generator) -> Case:
        """With scales and minima that such numbers hold; codes need whole super-blocks of inputs."""
        if scales == "codes" and self.w.shape[1] % 256 == 0:
            return self.in_codes(rng)
        return self if scales == "float32" else self.in_halves()

    def in_codes(self, rng: np.random.Generator) -> Case:
        """Of any sign, zeros and subnormal numbers among them."""
        (N, C), together = self.w.scale.shape, 256 // self.w.block

        def drawn() -> tuple[np.ndarray, np.ndarray]:
            exponents = rng.choice([-24.0, -14, -8, -3], (N, C // together))
            factors = (rng.standard_normal(exponents.shape) * 2**exponents).astype(np.float16)
            return rng.integers(-128, 128, (N, C)).astype(np.int8), factors

        coded = [drawn() for _ in range(1 if self.w.minimum is None else 2)]
        numbers = [codes * np.repeat(f, together, axis=1).astype(np.float32) for codes, f in coded]
        scale = numbers[0]
        minimum = None if self.w.minimum is None else lowest(self.w.bits) * scale + numbers[1]
        return replace(self, w=replace(self.w, scale=scale, minimum=minimum), scales="codes", coded=coded)

    def in_halves(self) -> Case:
        """With scales and minima that float16 holds: in every third block subnormal ones or zeros."""
        scale, minimum = self.w.scale.copy(), self.w.minimum
        scale[:, ::3] *= 2.0**-15
        scale = scale.astype(np.float16).astype(np.float32)
        if minimum is not None:
            minimum = minimum.astype(np.float16) + lowest(self.w.bits) * scale
        return replace(self, w=replace(self.w, scale=scale, minimum=minimum), scales="float16")

    def expected(self) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            y = quant.linear_blocks(self.x[None], quant.transpose(self.w))[0]
            return y if self.bias is None else y + self.bias


VALUES = (normal, tied, strange)


def random_case(seed: int) -> Case:
    """Of any size that fills a few tiles of outputs, blocks of inputs and panels of rows."""
    rng = np.random.default_rng(seed)
    block, bits = int(rng.choice([16, 32, 64, 128])), int(rng.choice(FORMS))
    N, K, M = (int(n) for n in rng.integers((1, 1, 0), (50, 4 * block, 70)))
    scales = SCALE_TYPES[seed % 3]
    if scales == "codes":
        K = -(-K // 256) * 256
    if seed % 4 == 3:
        N = -(-N // 32) * 32  # as many gates as there is behind them
    bias = rng.standard_normal(N).astype(np.float32) if rng.random() < 0.5 else None
    x = VALUES[seed % len(VALUES)](rng, M, K).astype(np.float32)
    minimum = seed % 5 in (1, 2)
    case = Case(table(rng, N, K, bits=bits, block=block, zero=rng.random() < 0.5, minimum=minimum), x, bias)
    case = case.of_type(scales, rng)
    return case.looked_up(rng) if bits == LOOKED_UP else case
