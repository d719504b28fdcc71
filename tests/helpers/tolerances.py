"""Two float64 computations that should agree. Budgets of float32 are in refimpl/error_budget.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from tfm.refimpl.laws.kit.results import largest

# Two float64 computations of one law: rounding of sums of a few hundred terms, far below a mistake.
LAW = 1e-10


def equal(got: Any, expected: Any, share: float = LAW) -> None:
    """Two float64 arrays of one law agree but for rounding, on the scale of the larger."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
    error, allowed = largest(got - expected), share * max(largest(expected), 1.0)
    assert error <= allowed, f"off by {error:.3g}, a law in float64 allows {allowed:.3g}"
