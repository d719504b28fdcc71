"""Floats with one scale for each block [a, b] of the matrix: 8-bit floats, and BitNet's unpacked weights.

    w[f, d] = weight[f, d] · scale[f // a, d // b]

The product is rounded to float32.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ....ops.quant import Blocks
from ..tensor_source import RawSource
from .weight import Shape


@dataclass(frozen=True, eq=False)
class ScaledWeight:
    """A stored weight of floats with one scale for each block. Each access reads the weight from the file."""

    source: RawSource
    name: str
    scale: str
    block: Shape

    @property
    def kind(self) -> str:
        return self.source.kind(self.name)

    @property
    def shape(self) -> Shape:
        return self.source.shape(self.name)

    @property
    def tensors(self) -> Collection[str]:
        return self.name, self.scale

    def load(self, part: int | None = None) -> np.ndarray:
        assert part is None, "only the weights of experts are stored together"
        weight = self.source.load(self.name)
        a, b = self.block
        scale = self.source.load(self.scale).reshape(-(-len(weight) // a), -1)
        with np.errstate(all="ignore"):  # whoever loads a weight checks that it is finite
            for start in range(0, len(weight), a):
                weight[start : start + a] *= np.repeat(scale[start // a], b)[: weight.shape[1]]
        return weight

    def native(self, part: int | None = None) -> Blocks | None:
        return None
