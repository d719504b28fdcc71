"""The error budget is its formula, with the factor, tries and ulp that were measured."""

import numpy as np
import pytest
from tfm.refimpl.error_budget import (
    CODE_MOVE,
    FACTOR,
    TRIES,
    ULP,
    ErrorTerms,
    error_terms,
    kl_budget,
    largest_difference,
    moved,
    rounded_up,
)

EXACT = np.array([1.0, -8.0, 0.5])
ROUNDED = np.array([1.5, -8.0, 0.5])
MOVED = [np.array([1.0, -8.25, 0.5]), np.array([1.0, -7.0, 0.5]), np.array([1.0, -8.0, 0.5])]


def test_the_budget_is_four_times_the_sum_of_its_terms():
    assert ErrorTerms(0.5, 1.0, 0.25).budget == 4 * (0.5 + 1.0 + 0.25)


def test_the_terms_of_given_numbers():
    """A = 0.5 at the first number, J = 1 in the second try, u = one ulp of −8."""
    assert error_terms(EXACT, ROUNDED, MOVED) == (0.5, 1.0, 8 * 2.0**-23)
    assert error_terms(EXACT, ROUNDED, MOVED).budget == 4 * (0.5 + 1.0 + 8 * 2.0**-23)
    assert error_terms(EXACT, ROUNDED, [], eps=2.0**-10) == (0.5, 0.0, 8 * 2.0**-10)


def test_the_constants_are_those_that_were_measured():
    assert (FACTOR, TRIES, ULP, CODE_MOVE) == (4, 3, 2.0**-23, 2.0**-16)
    assert np.finfo(np.float32).eps == ULP


def test_another_distance_measures_both_errors():
    def mean(values: np.ndarray, exact: np.ndarray) -> float:
        return float(np.abs(values - exact).mean())

    terms = error_terms(EXACT, ROUNDED, MOVED, distance=mean)
    assert terms == pytest.approx((0.5 / 3, 1 / 3, 8 * 2.0**-23))


@pytest.mark.parametrize(
    ("number", "rounded"),
    [(1.2301e-19, 1.24e-19), (1.23e-19, 1.23e-19), (9.991, 10.0), (123456.0, 124000.0), (0.0, 0.0)],
)
def test_stored_terms_have_three_digits_and_are_never_smaller(number, rounded):
    assert rounded_up(number) == rounded


def test_what_isnt_finite_stays_so():
    assert np.isinf(rounded_up(float("inf")))
    assert np.isnan(rounded_up(float("nan")))


@pytest.mark.parametrize("budget", [1e-6, 1e-3, 0.5, 3.0])
def test_no_kl_divergence_exceeds_the_budget_of_its_logits(budget):
    """Logits differ by the budget, up or down, at random probabilities; two equal ones nearly reach it."""
    assert kl_budget(budget) == (2 * budget) ** 2 / 8
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(5, 0.5), 1000)
    changes = budget * rng.choice([-1.0, 1.0], probabilities.shape)
    means = (probabilities * changes).sum(-1)
    # Centred, log E[exp D] − E[D] keeps its digits for small D.
    kl = np.log1p((probabilities * np.expm1(changes - means[:, None])).sum(-1))
    assert kl.max() <= kl_budget(budget)
    two_equal = np.log1p(2 * np.sinh(budget / 2) ** 2)  # log cosh
    assert two_equal > kl_budget(budget) * (1 - budget**2 / 6 - 1e-9)


def test_infinities_have_no_ulp_and_nan_is_no_small_error():
    exact = np.array([np.inf, -2.0])
    assert error_terms(exact, exact, [], distance=lambda values, exact: 0.0).ulp == 2 * ULP
    assert np.isnan(largest_difference(np.array([np.nan, 1.0]), np.array([1.0, 1.0])))
    assert largest_difference(np.zeros(0), np.zeros(0)) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_number_moves_by_its_share_up_or_down(dtype):
    values = np.linspace(-3, 3, 101, dtype=dtype)
    result = moved(values, 2.0**-10, np.random.default_rng(0))
    assert result.dtype == dtype
    up, down = result == values * dtype(1 + 2.0**-10), result == values * dtype(1 - 2.0**-10)
    assert (up | down).all()
    assert min(up.sum(), down.sum()) > 30
