"""The error budget: how far a result may differ from the specification's result. It is computed, not guessed.

    budget = 4 · (A + J + u)   over a whole output
    A = max |spec in float32 − spec in float64|
    J = the most that the float64 spec moves when its inputs move by one ulp (three tries)
    u = one ulp of the largest number, 2⁻²³ · max |spec in float64| in float32

A and J each miss errors that the other one includes. A float32 run may have A = 0 by luck, and J doesn't
include intermediate rounding. An output has a single budget, since budgets for single elements would be just
as unstable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING, Context
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy import ndarray as Array

# Measured: without the factor no correct draw of 600 per function passed 1.3 budgets; with it a doubled
# eps or a window that is off by one is still seen.
FACTOR = 4.0
# How many times inputs are moved. The largest of three moves hardly grows with more tries.
TRIES = 3
# Relative distance of neighbouring float32 numbers.
ULP = 2.0**-23
# Inputs move by this much, not by an ulp, where activations or a cache are rounded to codes. There one ulp
# can flip a code and then moves the result a thousand times more. In a large model some codes always flip,
# in a small one rarely; after a move of this size some flip in every try.
CODE_MOVE = 2.0**-16
# Significant digits of terms that are stored: further ones follow the order of sums. Rounded up, a budget
# grows by less than a hundredth.
DIGITS = 3


class ErrorTerms(NamedTuple):
    """The three terms A, J and u of an error budget, as defined at the top of this module."""

    rounding: float
    jump: float
    ulp: float

    @property
    def budget(self) -> float:
        """The error budget 4 · (A + J + u): the largest difference that is allowed."""
        return FACTOR * (self.rounding + self.jump + self.ulp)


def kl_budget(budget: float) -> float:
    """Return the largest possible KL divergence, in nats, if two models' logits differ by at most `budget`.

    With D = the model's logits − the true logits, KL(truth‖model) = log E[exp D] − E[D] over the true
    probabilities. By Hoeffding's lemma (Hoeffding 1963) this is at most (max D − min D)² / 8; here max D −
    min D ≤ 2 · budget. A mean over positions has the same bound.
    """
    return (2 * budget) ** 2 / 8


def largest_difference(values: Array, exact: Array) -> float:
    """Return the largest absolute difference between elements of two arrays; NaN if any difference is NaN."""
    return float(np.max(np.abs(values - exact), initial=0))


def error_terms(
    exact: Array,
    rounded: Array,
    moved: Iterable[Array],
    *,
    eps: float = ULP,
    distance: Callable[[Array, Array], float] = largest_difference,
) -> ErrorTerms:
    """Compute the terms A, J and u of the error budget of one output.

    `exact` is the specification's output in float64. `rounded` is its output in a type with the relative
    rounding error `eps`. Each of `moved` is its output in float64 for inputs that were changed by one ulp. u
    is computed from finite numbers only.
    """
    largest = float(np.max(np.abs(exact[np.isfinite(exact)]), initial=0))
    jump = max([0.0, *(distance(values, exact) for values in moved)])
    return ErrorTerms(distance(rounded, exact), jump, eps * largest)


def rounded_up(number: float) -> float:
    """Round a number up to `DIGITS` significant digits."""
    return float(Context(prec=DIGITS, rounding=ROUND_CEILING).create_decimal(str(number)))


def moved(values: Array, share: float, rng: np.random.Generator) -> Array:
    """Return the values, each randomly multiplied by 1 + `share` or 1 − `share`."""
    return values * (1 + share * rng.choice([-1.0, 1.0], values.shape)).astype(values.dtype)
