"""The law of functions that read tokens in parts: the place where a text is split doesn't change the
result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .call import Call
from .checking import Draw
from .strategies import splits
from .subject import Subject


def in_two(f: Subject, draw: Draw, call: Call, state: Callable[..., dict[str, Any]]) -> None:
    """Check that two calls over the parts of a text equal one call, in the joined outputs and in the last
    state.

    `state` returns the arguments of the second call. It gets the number of tokens before that call, and
    everything that the first call returned except its outputs.
    """
    length = call.sizes["T"]
    cut = draw(splits(length))
    first, second = f.take(call, "T", range(cut)), f.take(call, "T", range(cut, length))
    y, *between = f(first)
    second = second.but(**state(cut, *between))
    z, *last = f(second)
    f.near((np.concatenate([y, z], 1), *last), f(call), call, first, second)
