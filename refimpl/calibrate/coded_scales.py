"""Scales as llama.cpp's K-quants store them: a small code for each block, a float16 factor for several."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
# Codes that the largest number of a super-block may have, those of llama.cpp's files first.
LARGEST_CODES = (63, -128, *(sign * code for code in range(127, 0, -1) for sign in (1, -1)))


def coded_scales(scale: Array, base: Array | None, together: int) -> tuple[Array, Array]:
    """int8 codes c [N, C] and float16 factors f [N, C / together] with scale = base + f · c, to the bit.

    Scales and base are float32 [N, C]; without a base scale = f · c. The product is exact in float32, the sum
    is rounded once. Conventions: of the codes that the neighbour farthest from its base may have, the first
    of `LARGEST_CODES` counts; where none does, the factor is NaN.
    """
    wanted = scale.reshape(-1, together)
    moved = np.zeros((len(wanted), 1), np.float32) if base is None else base.reshape(-1, together)
    codes, factors = np.zeros(wanted.shape, np.int8), np.full((len(wanted), 1), np.nan, np.float16)
    left = np.arange(len(wanted))
    with np.errstate(all="ignore"):
        for largest in LARGEST_CODES:
            away = wanted.astype(np.float64) - moved
            top = np.take_along_axis(away, np.abs(away).argmax(axis=1)[:, None], axis=1)
            factor = (top / largest).astype(np.float16)
            code = np.rint(away / np.where(factor == 0, np.inf, factor))
            got = factor.astype(np.float32) * (code.astype(np.float32) + 0)  # no code is -0
            if base is not None:
                got += moved
            same = got.view(np.int32) == wanted.view(np.int32)
            holds = same.all(axis=1) & (np.abs(code + 0.5) < 128).all(axis=1)
            codes[left[holds]], factors[left[holds]] = code[holds], factor[holds]
            left, wanted, moved = left[~holds], wanted[~holds], moved[~holds]
            if not left.size:
                break
    return codes.reshape(scale.shape), factors.reshape(len(scale), -1)
