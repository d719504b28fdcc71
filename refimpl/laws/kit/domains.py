"""Bounds on the random arrays of a call, besides their shapes: a range, or the result of another function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...config import LimitedSwiGLU
from ...ops.flash import flash_attend
from ...ops.linear import linear
from .call import Call
from .declare import Declared, Function, Parameter
from .settings import GATES, LARGEST

# By parameter or field: how drawn numbers are brought into its range.
DOMAINS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "projection": lambda a: np.clip(a, -3, 3),  # rows are standard normal: larger ones overflow exp
    "decay": lambda a: -abs(a),
    "denominator": lambda a: 1 + abs(a),  # the largest of its terms is 1
    "k_scale": lambda a: a / 64,  # 8 bits reach twice as far as most numbers, and less far than some
    "v_scale": lambda a: a / 64,
    "conv": lambda a: a / (1 + abs(a).sum(0)),  # what a convolution gives is no larger than what it reads
    "step": abs,
    "rates": lambda a: -abs(a),
    "beta": lambda a: 2 * abs(a) / (1 + abs(a)),
    "short": lambda a: 1 + abs(a),  # divisors of frequencies: a text is stretched, never shrunk
    "long": lambda a: 1 + abs(a),
    # The squares of what experts give are summed, and some experts square what they read.
    **dict.fromkeys(("expert_scale", "experts_pre", "shared_pre"), lambda a: np.clip(a, -1, 1)),
}


def confined(f: Function, call: Call) -> Call:
    """Return the call with its arrays changed so that each is within its domain."""

    def domain(p: Parameter, array: Any) -> Any:
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            return array
        dims = next(o.dims for o in p.options if isinstance(o, Declared))
        if dims and dims[-1] == "Q":
            return abs(array)
        array = np.clip(array, -most, most) if (most := LARGEST.get(p.name)) else array
        return DOMAINS[p.name](array) if p.name in DOMAINS else array

    call = call.changed(domain)
    if f.name in ("mixture", "moe") and not any("gate" in expert for expert in call["experts"]):
        # A clamped SwiGLU needs gates.
        name = "kind" if f.name == "mixture" else "activation"
        call = call.but(**{name: "relu"}) if isinstance(call[name], LimitedSwiGLU) else call
    if f.name in ("delta_attend", "gated_delta_rule", "gated_delta_chunked"):
        # Longer keys make a memory that is corrected by them grow without bound.
        lengths = np.linalg.norm(call["k"].astype(np.float64), axis=-1, keepdims=True)
        call = call.but(k=(call["k"] / np.where(lengths == 0, 1, lengths)).astype(call["k"].dtype))
    if f.name == "route" and call["groups"].by == "top2":
        # Sums of two sigmoids are equal too easily: σ(a) + σ(−a) is 1, and σ(20) too in float32.
        logits = call["logits"] / (1 + abs(call["logits"])) + np.sin(np.arange(call["logits"].shape[1]))
        call = call.but(logits=logits.astype(call["logits"].dtype))
    if f.name == "latent_attention" and (chosen := call["chosen"]) is not None:
        # As few as an indexer chooses.
        few = np.cumsum(chosen, axis=-1) <= call["settings"].indexer.topk
        call = call.but(chosen=chosen & few)
    if f.name in GATES:
        call = _moderate(call, GATES[f.name])
    if f.name == "flash_backward":
        q, k, v, mask = (call[n] for n in ("q", "k", "v", "mask"))
        out, lse = flash_attend(q, k, v, mask, **call.settings)
        call = call.but(out=out, lse=lse)
    return call


def _moderate(call: Call, maps: tuple[str, ...]) -> Call:
    """Return the call with inputs of gates below 4.

    Below −8, a kernel's sigmoid is little more than its error, and a norm would magnify this error.
    """
    x, cache = call["x"], call["cache"]

    def gate(name: str) -> np.ndarray:
        several = any(p.name == f"{name}_a" for p in call.f.leaves)
        first = call[f"{name}_a"] if several else None
        return linear(x if first is None else linear(x, first), call[name])

    gates = [np.abs(gate(name)).max(initial=0) for name in maps]
    x = (x * (4 / (4 + max(gates)))).astype(x.dtype)
    near = {"tail": np.clip(cache.tail, -4, 4)} if hasattr(cache, "tail") else {}
    return call.but(x=x, cache=cache._replace(**near))
