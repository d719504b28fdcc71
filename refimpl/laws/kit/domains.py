"""What arrays must be beyond their shape: parts of the numbers, and what another function gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...ops.flash import flash_attend
from .call import Call
from .declare import Declared, Function

# By parameter: what is made of a draw.
DOMAINS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "projection": lambda a: np.clip(a, -3, 3),  # rows are standard normal: larger ones overflow exp
    "decay": lambda a: -abs(a),
    "k_scale": lambda a: a / 64,  # 8 bits reach twice as far as most numbers, and less far than some
    "v_scale": lambda a: a / 64,
    "beta": lambda a: abs(a) / (1 + abs(a)),
    "short": lambda a: 1 + abs(a),  # divisors of frequencies: a text is stretched, never shrunk
    "long": lambda a: 1 + abs(a),
}


def confined(f: Function, call: Call) -> Call:
    """The call with its arrays in their domains."""
    changed = {}
    if f.name.startswith("window_") and f.name != "window_mask":
        # A buffer holds more slots than sinks and slack.
        more = ((0, 0), (0, 0), (0, call.settings.get("sinks", 0) + call.settings.get("slack", 0)), (0, 0))
        call = replace(call, sizes=call.sizes | {"S": call.sizes["S"] + more[2][1]})
        changed = {n: np.pad(a, more, mode="wrap") for n, a in call.arrays.items() if n.startswith("past_")}
        if "past_k" not in call.arrays:
            changed["past"] = np.pad(call["past"], more, mode="wrap")
    for p in f.parameters:
        array = call.arrays.get(p.name)
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            continue
        dims = next(o.dims for o in p.options if isinstance(o, Declared))
        if dims and dims[-1] == "Q":
            changed[p.name] = abs(array)
        elif p.name in DOMAINS:
            changed[p.name] = DOMAINS[p.name](array)
    if f.name == "delta_attend":
        # Longer keys make a memory that is corrected by them grow without bound.
        lengths = np.linalg.norm(call["k"].astype(np.float64), axis=-1, keepdims=True)
        changed["k"] = (call["k"] / np.where(lengths == 0, 1, lengths)).astype(call["k"].dtype)
    if f.name == "flash_backward":
        q, k, v, mask = (call[n] for n in ("q", "k", "v", "mask"))
        changed["out"], changed["lse"] = flash_attend(q, k, v, mask, **call.settings)
    return call.but(**changed)
