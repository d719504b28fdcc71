"""The law of functions that read tokens in parts: it doesn't matter where a text is split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .call import Call
from .checking import Draw
from .strategies import splits
from .subject import Subject


def in_two(f: Subject, draw: Draw, call: Call, state: Callable[..., dict[str, Any]]) -> None:
    """Check that two calls over the parts of a text equal one call, in their joined outputs and in the state.

    `state` returns the arguments of the second call, from the tokens before it and from all that the first
    call returned except its outputs.
    """
    length = call.sizes["T"]
    cut = draw(splits(length))
    first, second = f.take(call, "T", range(cut)), f.take(call, "T", range(cut, length))
    y, *between = f(first)
    second = second.but(**state(cut, *between))
    z, *last = f(second)
    f.near((np.concatenate([y, z], 1), *last), f(call), call, first, second)
