"""Floats of 4 and 8 bits, as tables from each code to its value.

    value = (−1)^s · 2^(e − bias) · (1 + m / 2^M)      e > 0
            (−1)^s · 2^(1 − bias) · m / 2^M            e = 0

From the highest bit on, the bits of a code are s, e and m. M is the number of bits of m. E4M3 has no
infinity, and its NaN has all bits except the sign set to 1. E5M2 has infinity and NaN as in IEEE 754. E2M1
has neither. Sources: OCP 8-bit Floating Point Specification 1.0, and OCP Microscaling Formats 1.0, which also
has E8M0: an exponent alone, 2^(e − 127), with NaN at 255.
"""

from __future__ import annotations

import numpy as np


def _values(exponent_bits: int, mantissa_bits: int, bias: int) -> np.ndarray:
    """Return the value of every code in order, including the sign. The caller inserts infinities and NaN."""
    codes = np.arange(2 ** (1 + exponent_bits + mantissa_bits))
    mantissa = codes % 2**mantissa_bits / 2**mantissa_bits
    exponent = codes >> mantissa_bits & 2**exponent_bits - 1
    size = np.ldexp(mantissa + (exponent > 0), np.maximum(exponent, 1) - bias)
    return np.where(codes >> (exponent_bits + mantissa_bits), -size, size).astype(np.float32)


def _e4m3() -> np.ndarray:
    values = _values(4, 3, bias=7)
    values[[0x7F, 0xFF]] = np.nan
    return values


def _e5m2() -> np.ndarray:
    values = _values(5, 2, bias=15)
    values[[0x7C, 0xFC]] = np.inf, -np.inf
    values[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return values


def _e8m0() -> np.ndarray:
    values = np.ldexp(1.0, np.arange(256) - 127)
    values[255] = np.nan
    return values.astype(np.float32)


E2M1, E4M3, E5M2, E8M0 = _values(2, 1, bias=1), _e4m3(), _e5m2(), _e8m0()
