"""Laws of rotary frequencies that are changed for longer texts."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from ..ops.position import rope_frequencies
from . import Call, Draw, Subject, law

factors = st.sampled_from((1.0, 2.0, 8.0))


def _call(scaling: Subject, draw: Draw, **settings: Any) -> Call:
    """Return a call with the frequencies of a real head."""
    drawn = draw(scaling.calls(**settings))
    theta = drawn.settings.get("theta", 10_000.0)
    return drawn.but(frequencies=rope_frequencies(np.arange(len(drawn["frequencies"])), theta=theta))


@law("linear_scaling", "yarn_scaling", "llama3_scaling")
def no_frequency_is_divided_by_more_than_the_factor(scaling: Subject, draw: Draw) -> None:
    """Each frequency is divided by a number between 1 and the factor, and the pairs keep their order."""
    call = _call(scaling, draw).but(factor=draw(factors))
    f, scaled = call["frequencies"], scaling(call)
    scaling.near(np.clip(scaled, f / call["factor"], f), scaled, call)
    assert (np.diff(scaled) <= 0).all(), f"a later pair rotates faster: {scaled}"


@law("linear_scaling", "yarn_scaling", "llama3_scaling")
def a_factor_of_one_changes_nothing(scaling: Subject, draw: Draw) -> None:
    """A scaling factor of 1 doesn't change the frequencies."""
    call = _call(scaling, draw).but(factor=1.0)
    scaling.near(scaling(call), call["frequencies"].astype(scaling.dtype), call)


@law("dynamic_ntk_scaling")
def frequencies_stay_within_the_trained_context(dynamic_ntk_scaling: Subject, draw: Draw) -> None:
    """For a context up to the original one, `dynamic_ntk_scaling` doesn't change the frequencies."""
    call = draw(dynamic_ntk_scaling.calls(context=8))
    dynamic_ntk_scaling.near(dynamic_ntk_scaling(call), call["frequencies"], call)


@law("dynamic_ntk_scaling")
def it_equals_another_theta(dynamic_ntk_scaling: Subject, draw: Draw) -> None:
    """`dynamic_ntk_scaling` returns the frequencies that theta · s^(2J / (2J − 2)) gives. The first pair
    is unchanged, and the last pair is divided by s."""
    pairs, theta = draw(st.integers(2, 9)), draw(st.sampled_from((10_000.0, 50.0)))
    f = rope_frequencies(np.arange(pairs), theta=theta)
    call = dynamic_ntk_scaling.call(f, factor=8.0, original_context=16, context=40)
    s = 8.0 * 40 / 16 - 7
    larger = rope_frequencies(np.arange(pairs), theta=theta * s ** (pairs / (pairs - 1)))
    dynamic_ntk_scaling.near(dynamic_ntk_scaling(call), larger, call, times=2)


@law("yarn_scaling")
def fast_pairs_are_kept_and_slow_ones_divided(yarn_scaling: Subject, draw: Draw) -> None:
    """`yarn_scaling` keeps the frequency of a pair with more than beta_fast turns in the trained context.
    It divides the frequency of a pair with fewer than beta_slow turns by the factor."""
    f = rope_frequencies(np.arange(32), theta=10_000.0)
    settings = {"beta_fast": 32.0, "beta_slow": 1.0, "original_context": 4096, "factor": 4.0}
    call = yarn_scaling.call(f, theta=10_000.0, truncate=draw(st.booleans()), **settings)
    turns = 4096 * f / (2 * np.pi)
    slowed = f / yarn_scaling(call)
    # Rounded outwards, the ramp begins and ends up to a pair early and late.
    assert np.allclose(slowed[turns > 32 * 1.4], 1), (
        f"fast pairs must not be slowed, but the factors are {slowed}"
    )
    assert np.allclose(slowed[turns < 1 / 1.4], 4), (
        f"slow pairs must be slowed by 4, but the factors are {slowed}"
    )
    assert (np.diff(slowed) > -1e-5).all(), f"a slower pair is slowed less: {slowed}"


@law("longrope_scaling")
def the_context_chooses_the_factors(longrope_scaling: Subject, draw: Draw) -> None:
    """`longrope_scaling` uses only the factors for the given context length: either the `long` or the
    `short` ones.
    """
    call = draw(longrope_scaling.calls())
    other = "short" if call["context"] > call["original_context"] else "long"
    changed = call.but(**{other: call[other] + 1})
    longrope_scaling.near(longrope_scaling(changed), longrope_scaling(call))


@law("proportional_scaling")
def the_first_pairs_turn_and_the_others_stand_still(proportional_scaling: Subject, draw: Draw) -> None:
    """`proportional_scaling` divides the first `turned` frequencies by the factor, and sets all others to
    0.
    """
    call = _call(proportional_scaling, draw).but(factor=draw(factors))
    scaled, turned = proportional_scaling(call), call["turned"]
    proportional_scaling.near(scaled[:turned], call["frequencies"][:turned] / call["factor"], call)
    assert not scaled[turned:].any(), f"pairs from number {turned} on must not rotate: {scaled}"
