"""Specify the kernels' floating-point arithmetic in NumPy, with the same bits: the order of sums, and the
steps of each function.

This module uses only operations that IEEE 754 defines to the bit: sums, products, quotients and square
roots of float32, each rounded once, and `fma`. It calls no functions of a library, because NumPy's exp and
tanh give other bits on other processors. Products of codes are integers, which are exact in any order.
kernels.h states the order of all other sums.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import wraps

import numpy as np
from numpy import ndarray as Array

from ....refimpl.config import XIELU
from ....refimpl.ops.quant import LANES

SMALLEST = np.float32(2.0**-126)  # the smallest normal number of float32
ABOVE = 35  # bits of a float64 that a float32 has too, from its sign on
LOW_MIDDLE = -(1 << 63)  # the bits below these, as an integer, in the middle of two float32
AT_ONCE = 1 << 16  # sums that are in memory together, which fit a processor's cache
PIECE = 1 << 14  # numbers of a function that fit it

EXP = tuple(
    map(np.float32, (0.00138206896, 0.0083686756, 0.0416682661, 0.166665211, 0.49999994))
)  # the polynomial of exponential.h, from degree 6 down to 2
LOG2_E, LN_2, LN_2_REST = map(np.float32, (1.44269504, -0.693147182, 1.90465421e-9))
ATANH = tuple(map(np.float32, (0.28024465, 0.2799914, 0.400217, 0.6666641)))  # that of `softplus`
HALF_PI = 1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21  # 33 bits, 33 bits, and the rest
GELU = (
    0.1285519301891327, -0.06417233496904373, 0.04773762822151184, -0.03879278525710106,
    0.032070260494947433, -0.026048259809613228, 0.020364567637443542, -0.014999077655375004,
    0.010227825492620468, -0.006819910369813442, 0.0046217842027544975, -0.002418649150058627,
    0.0007201037951745093, -0.000529132317751646, 0.0006315598729997873, -0.00023641764710191637,
)  # fmt: skip


def fma(a: Array, b: Array | np.float32, c: Array | np.float32) -> Array:
    """Return a · b + c, rounded once to float32.

    The product is exact in float64. Its sum with c is rounded to float64 and again to float32. Rounding twice
    gives another result than rounding once only if the first rounding gives the midpoint between two float32
    numbers, and this function corrects that case.
    """
    exact = np.multiply(a, b, dtype=np.float64)
    total = np.add(exact, c, dtype=np.float64)
    result = total.astype(np.float32)
    doubtful = np.left_shift(total.view(np.int64), ABOVE) == LOW_MIDDLE
    doubtful |= np.abs(result) < SMALLEST  # where float32 has fewer bits
    if doubtful.any():
        at = np.nonzero(doubtful)
        c = np.broadcast_to(c, total.shape)
        result[at] = _rounded_once(exact[at], c[at].astype(np.float64))
    return result


def _rounded_once(exact: Array, c: Array) -> Array:
    """Return the sum of two float64 numbers, rounded once to float32.

    If float64 can't represent the sum, the last bit of the float64 sum is made odd. So the float64 number
    is neither a float32 nor the midpoint of two float32 (Boldo & Melquiond 2008)."""
    total = exact + c
    part = total - exact
    rest = (exact - (total - part)) + (c - part)  # of the sum: Knuth's TwoSum
    even = (total.view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.copysign(np.inf, rest))
    return np.where((rest != 0) & even, odd, total).astype(np.float32)


def add_products(sums: Array, a: Array, b: Array) -> None:
    """Add products to sums in place: sums[g, i, j] += a[k, g, i] · b[k, g, j] for k in order, each step by
    `fma`.
    """
    smallest = [np.min(np.abs(x), where=x != 0, initial=np.inf) for x in (a, b)]
    if smallest[0] * smallest[1] < 2.0**-101:  # else a sum below SMALLEST is a float32, which isn't rounded
        _add_each(sums, a, b)
        return
    steps = min(len(a), max(1, AT_ONCE // sums.size))
    product, total, low = np.empty((3, steps, *sums.shape))
    exact = sums.astype(np.float64)
    for start in range(0, len(a), steps):
        some = slice(start, start + steps)
        count, before = len(a[some]), sums.copy()
        np.multiply(a[some, :, :, None], b[some, :, None], dtype=np.float64, out=product[:count])
        for k in range(count):
            np.add(exact, product[k], out=total[k])
            sums[...] = total[k]
            exact[...] = sums
        if _any_rounded_twice(before, product[:count], total[:count], low[:count].view(np.int64)):
            sums[...] = before
            _add_each(sums, a[some], b[some])
            exact[...] = sums


def _add_each(sums: Array, a: Array, b: Array) -> None:
    for k in range(len(a)):
        sums[...] = fma(a[k, :, :, None], b[k, :, None], sums)


def _any_rounded_twice(before: Array, product: Array, total: Array, low: Array) -> bool:
    """Return whether the sum of a product and of the total before it was rounded to the midpoint of two
    float32.

    `low` is memory for as many integers as there are sums.
    """
    np.left_shift(total.view(np.int64), ABOVE, out=low)
    at = np.flatnonzero(low == LOW_MIDDLE)
    if not len(at):
        return False
    product, total, size = product.reshape(-1), total.reshape(-1), before.size
    last = np.where(at < size, before.reshape(-1)[at % size], total[at - size].astype(np.float32))
    product, total = product[at], total[at]
    # Of the larger and the smaller of two numbers the latter is what is left of an exact sum (Dekker 1971).
    return bool(((total - last) != product).any() or ((total - product) != last).any())


def in_lanes(x: Array, times: Array | None = None) -> Array:
    """Sum the last axis in 16 lanes, and then sum the lanes in order.

    With `times`, sum the products x · times by `fma` instead.
    """
    lanes = np.zeros((*x.shape[:-1], LANES), np.float32)
    for i in range(0, x.shape[-1], LANES):
        part = x[..., i : i + LANES]
        some = lanes[..., : part.shape[-1]]
        some[...] = some + part if times is None else fma(part, times[..., i : i + LANES], some)
    return in_order(lanes)


def in_order(lanes: Array) -> Array:
    """Sum the last axis from its first to its last number, starting at 0."""
    total = np.zeros(lanes.shape[:-1], np.float32)
    for lane in range(lanes.shape[-1]):
        total = total + lanes[..., lane]
    return total


def _in_pieces(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Decorate an elementwise function so that it computes a few numbers at a time. All its steps then read a
    processor's cache."""

    @wraps(function)
    def call(x: Array) -> Array:
        if x.size <= PIECE:
            return function(x)
        flat, y = x.reshape(-1), np.empty(x.size, np.float32)
        for start in range(0, x.size, PIECE):
            y[start : start + PIECE] = function(flat[start : start + PIECE])
        return y.reshape(x.shape)

    return call


def _exponential(x: Array) -> tuple[Array, Array]:
    """Return power and rest of e^x = power + power · rest, for -88 ≤ x ≤ 88. The power is a power of two."""
    n = np.rint(x * LOG2_E)
    r = fma(n, LN_2, x)
    r = fma(n, LN_2_REST, r)
    p = np.broadcast_to(EXP[0], r.shape)
    for coefficient in EXP[1:]:
        p = fma(p, r, coefficient)
    power = ((n.astype(np.int32) + 127) << 23).view(np.float32)
    return power, fma(p, r * r, r)


def row_sum(x: Array) -> Array:
    """Sum each row in 16 lanes, and then sum the lanes in order. The result has shape [..., 1]."""
    return in_lanes(x)[..., None]


def token_sum(x: Array) -> Array:
    """Sum x [B, T, ...] over its tokens, axis 1, in order, starting at 0."""
    return sum(x.swapaxes(0, 1), np.zeros_like(x[:, 0]))


def each_row(x: Array, weight: Array) -> Array:
    """Return x @ weight. Each element is a sum by `fma` over the inputs in order, starting at 0."""
    y = np.zeros((*x.shape[:-1], weight.shape[1]), np.float32)
    for k in range(len(weight)):
        y = fma(x[..., k, None], weight[k], y)
    return y


@_in_pieces
def bounded_exp(x: Array) -> Array:
    """Return e^x, with x limited to the range from -88 to 88."""
    power, rest = _exponential(np.clip(x, np.float32(-88), np.float32(88)))
    return fma(power, rest, power)


@_in_pieces
def exp(x: Array) -> Array:
    """Return e^x for x ≤ 0. The result is 0 if e^x is below e^-87.7."""
    power, rest = _exponential(np.maximum(x, np.float32(-88)))
    return fma(power, rest, power)


@_in_pieces
def tanh(x: Array) -> Array:
    """Return the hyperbolic tangent, (e^2x - 1) / (e^2x + 1)."""
    power, rest = _exponential(np.clip(x + x, np.float32(-88), np.float32(88)))
    less = fma(power, rest, power - 1)
    return less / (less + 2)


def sigmoid(x: Array) -> Array:
    """Return the sigmoid, 1 / (1 + e^-x)."""
    return 1 / (1 + bounded_exp(-x))


def silu(x: Array) -> Array:
    """Return the SiLU, x / (1 + e^-x)."""
    return x / (1 + bounded_exp(-x))


def softplus(x: Array) -> Array:
    """Return the softplus, ln(1 + e^x), by the formula

        max(x, 0) + 2 s + s z Q(z)   with s = e^-|x| / (2 + e^-|x|) and z = s²

    Q is a polynomial with the coefficients `ATANH`.
    """
    t = exp(np.minimum(x, -x))
    s = t / (t + 2)
    z = s * s
    q = np.broadcast_to(ATANH[0], z.shape)
    for coefficient in ATANH[1:]:
        q = fma(q, z, coefficient)
    return np.maximum(x, np.float32(0)) + fma(s * z, q, s + s)


def xielu(x: Array, alpha_p: Array, alpha_n: Array, *, beta: float) -> Array:
    """Return the activation xIELU: a x² + β x above 0, and b (2 t / (1 - t) - x) + β x below 0, with t =
    tanh(x / 2).

    a is softplus(alpha_p), and b is β + softplus(alpha_n).
    """
    t = tanh(np.minimum(x, np.float32(XIELU.eps)) / 2)
    below = 2 * t / (1 - t) - x
    a, b = softplus(alpha_p), np.float32(beta) + softplus(alpha_n)
    return np.where(x > 0, a * x * x, b * below) + np.float32(beta) * x


def log(x: Array) -> Array:
    """Return the natural logarithm of x ≥ 1 in float64, as e ln 2 + 2 s (1 + z/3 + .. + z¹⁰/21).

    Here x = m 2^e, s = (m - 1) / (m + 1) and z = s².
    """
    m, e = np.frexp(x.astype(np.float64))
    below = m < 0.5**0.5
    m, e = np.where(below, m + m, m), e - below
    s = (m - 1) / (m + 1)
    z, series = s * s, 1 / 21
    for k in range(19, 0, -2):
        series = series * z + 1 / k
    return e * 0.6931471805599453 + 2 * s * series


def query_factors(positions: Array, *, beta: float, original_context: int, offset: int = 0) -> Array:
    """Return the factors of queries, 1 + beta ln(1 + ⌊(position + offset) / original_context⌋), in
    float64.
    """
    return log((positions + offset) // original_context + 1) * beta + 1


def sine(x: Array, quarters: int = 0) -> Array:
    """Return the sine of x + quarters · π / 2 in float64, for |x| up to 10⁶.

    The function writes x = r + n π / 2 and z = r², and uses two series:

        sin r = r (1 - z/(2·3) (1 - z/(4·5) (1 - ..)))   up to z⁸
        cos r = 1 - z/(1·2) (1 - z/(3·4) (1 - ..))       up to z⁹
    """
    n = np.rint(x * 0.6366197723675814)
    r = x - n * HALF_PI[0] - n * HALF_PI[1] - n * HALF_PI[2]
    turned, z = n.astype(np.int64) + quarters, r * r

    def series(last: int) -> Array:
        total = np.ones_like(z)
        for k in range(last, 1, -2):
            total = 1 - z / (k * (k - 1)) * total
        return total

    y = np.where(turned % 2, series(18), series(17) * r)
    return np.where(turned & 2, -y, y)


def sinusoidal(positions: Array, frequencies: Array, *, interleaved: bool = False) -> Array:
    """Return sinusoidal position embeddings: the sines and cosines of position · frequency.

    The sines come before the cosines, or with `interleaved` each sine beside its cosine.
    """
    angles = positions[:, :, None] * frequencies
    axis = -1 if interleaved else -2
    return np.stack([sine(angles), sine(angles, 1)], axis).reshape(*positions.shape, -1)


def rope_frequencies(pairs: Array, *, theta: float) -> Array:
    """Return the rotary frequencies theta^(-j / J), rounded to float64 from 28 decimal digits.

    Decimal arithmetic gives the same digits on every processor.
    """
    return np.array([float(Decimal(theta) ** -Decimal(j)) for j in (pairs / len(pairs)).tolist()])


@_in_pieces
def gelu(x: Array) -> Array:
    """Return the GELU as x · (1/2 + z P(2 z² / 5.5² - 1)), where z is x clipped to the range from -5.5 to
    5.5.

    P is a polynomial with the coefficients `GELU`.
    """
    z = np.clip(x, np.float32(-5.5), np.float32(5.5))
    t = fma(z * z, np.float32(0.06611569970846176), np.float32(-1))
    total = np.broadcast_to(np.float32(GELU[-1]), t.shape)
    for coefficient in GELU[-2::-1]:
        total = fma(total, t, np.float32(coefficient))
    return x * np.maximum(np.float32(0), fma(z, total, np.float32(0.5)))


def gelu_tanh(x: Array) -> Array:
    """Return the tanh approximation of the GELU, x / (1 + e^-z) with z = x · (1.59576912 + 0.0713548163
    x²).
    """
    return x / (1 + bounded_exp(-x * fma(x * x, np.float32(0.0713548163), np.float32(1.59576912))))
