"""Laws of Gaussian top-k."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from . import Draw, Subject, law


@law("gaussian_topk")
def a_shift_of_all_numbers_changes_nothing(gaussian_topk: Subject, draw: Draw) -> None:
    """Adding a number to all elements doesn't change which elements `gaussian_topk` selects, because their
    mean moves by the same number and their deviation stays the same."""
    call = draw(gaussian_topk.calls())
    shift = call["x"].dtype.type(2 * np.abs(call["x"]).max(initial=0))
    other = call.but(x=call["x"] + shift)
    gaussian_topk.near(gaussian_topk(other), gaussian_topk(call), call, other)


@law("gaussian_topk")
def of_two_equal_halves_half_is_left(gaussian_topk: Subject, draw: Draw) -> None:
    """If the elements are alternately 1 and −1, their mean is 0 and their deviation 1. So `gaussian_topk`
    returns 1 − q for each 1."""
    call = draw(gaussian_topk.calls())
    signs = np.where(np.arange(2 * call["x"].shape[2]) % 2, -1, 1)
    other = call.but(x=np.tile(signs.astype(call["x"].dtype), (*call["x"].shape[:2], 1)))
    left = max(0.0, 1 - NormalDist().inv_cdf(call["share"]))
    gaussian_topk.near(gaussian_topk(other), np.where(other["x"] > 0, left, 0), other)


@law("gaussian_topk")
def of_normal_numbers_that_share_is_zero(gaussian_topk: Subject, draw: Draw) -> None:
    """For 4096 quantiles of a normal distribution, with any mean and deviation, `gaussian_topk` sets
    exactly the given share of the elements to 0.
    """
    call = draw(gaussian_topk.calls())
    ranks = np.array([NormalDist(3.0, 5.0).inv_cdf((i + 0.5) / 4096) for i in range(4096)])
    y = gaussian_topk(call.but(x=ranks.astype(call["x"].dtype)[None, None]))
    assert abs(np.mean(y == 0) - call["share"]) < 2e-3, (
        f"{np.mean(y == 0)} of the results are 0, expected {call['share']}"
    )
