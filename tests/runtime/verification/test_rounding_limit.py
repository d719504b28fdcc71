"""The limit of a KL divergence over a text, for weights in few bits."""

from types import SimpleNamespace

import pytest
from tfm.refimpl.error_budget import kl_budget
from tfm.runtime.verification.checks.rounding_limit import FLOATS, REFERENCE, SPECIFICATION, rounding_limit

SHARP = SimpleNamespace(own=SimpleNamespace(budget=7.0), plain=SimpleNamespace(budget=0.125))
ROUGH = SimpleNamespace(own=SimpleNamespace(budget=0.125), plain=None)


def test_the_limit_of_given_divergences():
    own, other = {(REFERENCE, FLOATS): 0.04}, {(REFERENCE, FLOATS): 0.25, (SPECIFICATION, FLOATS): 0.04}
    of_floats = kl_budget(0.125) ** 0.5
    assert rounding_limit(own, ROUGH) == pytest.approx(9 * 0.04)
    assert rounding_limit(own, SHARP) == pytest.approx((0.2 + 0.4 + of_floats) ** 2)
    assert rounding_limit(other, ROUGH) == pytest.approx((0.5 + 0.4) ** 2)
    assert rounding_limit({**other, (SPECIFICATION, FLOATS): 0.0}, ROUGH) == pytest.approx(
        (0.5 + of_floats) ** 2
    )
    assert rounding_limit({(REFERENCE, FLOATS): 0.0}, ROUGH) == pytest.approx(kl_budget(0.125))
