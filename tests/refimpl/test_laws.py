"""The specification keeps its laws; and the kit that holds others to them finds planted bugs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tfm.refimpl import laws
from tfm.refimpl.laws.kit.checking import EQUALS
from tfm.refimpl.laws.kit.declare import specified

SPEC = {name.split(".")[1]: function for name, function in specified().items()}
REGISTERED = [(name, law) for name, found in laws.names().items() for law in found if law != EQUALS]


def test_a_name_is_enough():
    """`check` takes the bare name of a function: no two files may use the same one."""
    assert len(SPEC) == len(specified())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("name", "law"), REGISTERED, ids=lambda a: a.replace(" ", "_"))
def test_the_specification_keeps_its_laws(name: str, law: str, dtype: Any):
    """In float64 to rounding, in float32 within the budget that other kernels are given."""
    held = laws.check(name, SPEC[name], dtype=dtype, quantized=True, only=law)
    assert held == (law,)
