"""A float32 result compared with the specification, within the budget that is computed of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tfm.refimpl.error_budget import TRIES, ULP, error_terms, largest_difference, moved
from tfm.refimpl.params.tree import flatten, unflatten


def assert_within_budget(got: np.ndarray, weights: Any, specified: Callable[[Any], np.ndarray]) -> None:
    """`specified` is the specification's result as a function of the weights, which set its precision."""
    rng, leaves = np.random.default_rng(3), dict(flatten(weights))
    doubles = {name: leaf.astype(np.float64) for name, leaf in leaves.items()}
    exact = specified(unflatten(doubles))
    moves = [
        specified(unflatten({name: moved(leaf, ULP, rng) for name, leaf in doubles.items()}))
        for _ in range(TRIES)
    ]
    budget = error_terms(exact, specified(weights), moves).budget
    assert got.shape == exact.shape
    error = largest_difference(got, exact)
    assert error <= budget, f"off by {error:.3g}, the budget is {budget:.3g}"
