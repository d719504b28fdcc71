"""The floats of the kernels' specification: `fma` is rounded once, also where two roundings give another."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy import ndarray as Array
from tfm.runtime.kernels.specification import arithmetic


def rounded_once(exact: Fraction) -> np.float32:
    """The nearest float32, halves to even, by comparing it with its neighbours."""
    near = np.float32(float(exact))
    around = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    is_odd = [int(one.view(np.int32)) & 1 for one in around]
    return min(
        zip(around, is_odd, strict=True), key=lambda one: (abs(Fraction(float(one[0])) - exact), one[1])
    )[0]


def hard_cases(count: int) -> tuple[Array, Array, Array]:
    """Sums that lie beside the middle of two float32, by less than float64 shows, and sums that are tiny."""
    rng = np.random.default_rng(0)
    c = rng.uniform(1, 2, count)
    # (1 + s) (1 - s) is nearly 1; half a unit of c in the last place is added or taken off.
    s = 2.0 ** -rng.integers(15, 24, count)
    a, b = (1 + s) * rng.choice([2.0**-24, -(2.0**-24)], count), 1 - s
    small = rng.uniform(1, 2, (2, count)) * 2.0 ** rng.integers(-80, -60, (2, count))
    a, b = np.concatenate([a, small[0]]), np.concatenate([b, small[1]])
    c = np.concatenate([c, rng.choice([0, 1, -1], count) * rng.uniform(1, 2, count) * 2.0**-130])
    return a.astype(np.float32), b.astype(np.float32), c.astype(np.float32)


def expected_sums(a: Array, b: Array, c: Array) -> Array:
    exact = [
        Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c, strict=True)
    ]
    return np.array([rounded_once(one) for one in exact])


def test_fma_is_rounded_once() -> None:
    a, b, c = hard_cases(3000)
    expected = expected_sums(a, b, c)
    assert np.array_equal(arithmetic.fma(a, b, c), expected)
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (twice != expected).any(), "no case tells one rounding from two"


@pytest.mark.parametrize("part", [slice(0, 3000), slice(3000, 6000)], ids=["beside middles", "tiny"])
def test_products_are_added_in_order_and_rounded_once(part: slice) -> None:
    """Each case is a sum of its own, to which one more product is added."""
    a, b, c = (x[part] for x in hard_cases(3000))
    more = np.random.default_rng(1).standard_normal((2, len(a))).astype(np.float32)
    expected = expected_sums(*more, expected_sums(a, b, c))
    sums = np.ascontiguousarray(c[:, None, None])
    arithmetic.add_products(sums, np.stack([a, more[0]])[..., None], np.stack([b, more[1]])[..., None])
    assert np.array_equal(sums[:, 0, 0], expected)
