"""Blocks as a GGUF file has them, for any weight of a tiny model."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from tfm.refimpl.ops.quant import Blocks, quantize


def blocks(shape: tuple[int, ...], axis: int, seed: int, minimum: bool, bits: int) -> Blocks:
    """Blocks of a GGUF file: Q4_1 (with minima), Q4_0 or Q8_0."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(shape).astype(np.float32) / 6
    result = quantize(weight, bits=bits, block=16, axis=axis)
    half = lambda a: a.astype(np.float16).astype(np.float32)  # noqa: E731
    if not minimum:
        return replace(result, scale=half(result.scale))
    zero, scale = np.zeros(result.scale.shape, np.uint8), half(np.abs(result.scale))
    # Not just at the middle: what is left of a minimum there is stored, and must be added.
    low = half((rng.uniform(-2, 2, scale.shape) - 8) * scale)
    return replace(result, scale=scale, zero=zero, minimum=low)


def natives(kinds: dict[str, tuple[bool, int]]) -> Any:
    """`Leaves.native` of a file whose leaves end in these names, with minima or not, in these bits."""

    def native(self: Any, name: str) -> Blocks | None:
        kind = kinds.get(name.rsplit(".", 1)[-1])
        shape = self.shapes[name]
        return (
            None
            if kind is None
            else blocks(shape, int(name.endswith("table")), zlib.crc32(name.encode()), *kind)
        )

    return native
