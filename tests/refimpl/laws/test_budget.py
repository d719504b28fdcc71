"""The error budget of a function's outputs is the formula, at numbers that can be worked out by hand."""

import numpy as np
from tfm.refimpl.laws.kit.budget import budgets


def test_the_budget_of_a_product():
    """Neighbours of 1.5 are one 2⁻²³ away on both sides, and 3 · 1.5 has no rounding: A = 0."""
    x = np.full(4, 1.5, np.float32)
    ulp = 2.0**-23
    assert budgets(lambda change: {"y": 3 * change(x), "index": np.arange(4)}) == {
        "out.0": 4 * (0 + 3 * ulp + 4.5 * ulp)
    }


def test_float32_rounding_counts():
    """In float32 the sum rounds 2⁻²⁴ away; in float64 it doesn't."""
    ulp = 2.0**-23

    def run(change):
        return change(np.zeros(1, np.float32)) * 0 + 1 + change(np.full(1, ulp / 2, np.float32))

    (budget,) = budgets(run).values()
    smallest = ulp / 2 * 2.0**-23  # how far neighbours of 2⁻²⁴ are
    assert 4 * (ulp / 2 + ulp) <= budget <= 4 * (ulp / 2 + ulp * (1 + ulp)) + 8 * smallest
