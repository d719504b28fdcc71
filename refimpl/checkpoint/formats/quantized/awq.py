"""AWQ's checkpoints (Lin et al. 2023, arXiv:2306.00978) in the version "gemm", as AutoAWQ writes them.

A module X of D inputs and F outputs, with codes of 4 bits in C groups of neighbouring inputs:

    X.qweight  I32 [D, F / 8]    codes, packed along F
    X.qzeros   I32 [C, F / 8]    zero points, packed alike
    X.scales   float [C, F]

    w[f, d] = scales[g, f] · (qweight[d, f] − qzeros[g, f]),  g = d // group size

**Conventions.** Each word contains the codes of eight outputs. From the lowest bits on, they are the codes of
outputs 0, 2, 4, 6, 1, 3, 5 and 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .affine import Affine, AffineWeight, groups
from .packed import fields
from .weight import FLOATS, RawSource, check, modules

BITS = 4
# Where output 0, 1, … of a word's eight begins.
SHIFTS = BITS * np.array([0, 4, 1, 5, 2, 6, 3, 7], np.uint32)


@dataclass(frozen=True)
class Awq:
    """AWQ's format with its settings. A `group_size` of None means that all inputs are one group."""

    group_size: int | None

    def weights(self, source: RawSource) -> Iterator[tuple[str, AffineWeight]]:
        for module in modules(source, "qweight"):
            yield f"{module}.weight", self._weight(source, module)

    def _weight(self, source: RawSource, module: str) -> AffineWeight:
        qweight, qzeros, scales = (f"{module}.{part}" for part in ("qweight", "qzeros", "scales"))
        inputs, words = check(source, qweight, ("I32",))
        group, count = groups(inputs, self.group_size)
        outputs = 8 * words
        check(source, qzeros, ("I32",), (count, words))
        check(source, scales, FLOATS, (count, outputs))

        def read() -> Affine:
            return Affine(
                codes=_unpack(source.raw(qweight)).T,
                scale=source.load(scales).T,
                zero=_unpack(source.raw(qzeros)).astype(np.int16).T,
                group=group,
                bits=BITS,
            )

        return AffineWeight("AWQ4", (outputs, inputs), (qweight, qzeros, scales), read)


def _unpack(words: np.ndarray) -> np.ndarray:
    return fields(words.view(np.uint32), SHIFTS, BITS)
