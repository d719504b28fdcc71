"""Scales as llama.cpp's K-quants store them: a small integer code for each block, and a float16 factor for
several blocks together."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
# Codes that the largest number of a super-block may have, those of llama.cpp's files first: of Q4_K and Q5_K,
# Q6_K, IQ4_XS and Q3_K, IQ2 and IQ3, Q2_K.
LARGEST_CODES = (63, -128, -32, 31, 15, *(sign * code for code in range(127, 0, -1) for sign in (1, -1)))
TOGETHER = 2**14  # super-blocks at a time, whose temporaries a processor's cache holds


def coded_scales(scale: Array, base: Array | None, together: int) -> tuple[Array, Array]:
    """Find int8 codes c [N, C] and float16 factors f [N, C / together] that give the scales to the bit:
    scale = base + f · c.

    Scales and base are float32 [N, C]. Without a base, scale = f · c. The product is exact in float32; the
    sum is rounded once. Conventions: the scale farthest from its base gets the first code of
    `LARGEST_CODES` for which all scales are exact. If there is no such code, the factor is NaN.
    """
    wanted = scale.reshape(-1, together)
    codes, factors = np.zeros(wanted.shape, np.int8), np.full(len(wanted), np.nan, np.float16)
    for start in range(0, len(wanted), TOGETHER):
        part = slice(start, start + TOGETHER)
        moved = None if base is None else base.reshape(-1, together)[part]
        codes[part], factors[part] = _coded(wanted[part], moved)
    return codes.reshape(scale.shape), factors.reshape(len(scale), -1)


def _coded(wanted: Array, base: Array | None) -> tuple[Array, Array]:
    """Compute `coded_scales` for some super-blocks, one in each row."""
    codes, factors = np.zeros(wanted.shape, np.int8), np.full(len(wanted), np.nan, np.float16)
    moved = np.zeros((len(wanted), 1), np.float32) if base is None else base
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
            codes[left[holds]], factors[left[holds]] = code[holds], factor[holds, 0]
            left, wanted, moved = left[~holds], wanted[~holds], moved[~holds]
            if not left.size:
                break
    return codes, factors
