"""Compute the error budget of each output of a call, for functions that take arrays, trees of arrays and
`Blocks`.

The formula is in `refimpl/error_budget.py`. To compute the formula's terms, this module runs a function in
another type and with perturbed inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ...config import XIELU, SwiGLUOAI
from ...error_budget import TRIES, error_terms
from ...ops.quant import Blocks, dequantize
from ...params.tree import like
from .call import Call
from .declare import Function
from .results import apart, flat, largest
from .settings import ACTIVATIONS, ATTENTIONS, GATED, MLPS

# A function in float64 against the spec in float64 may use this share of the float32 budget: float64 has
# 52 − 23 = 29 bits more, and one of them is given away since the two may add up in another order.
FINE = 2.0**-28
# Some kernels approximate: ONNX Runtime's Sigmoid has an absolute error of 6.5e-8 and is exactly 0 below
# −18, and torch's and ONNX Runtime's erf are about as far off. So an activation may be off by
# 1e-7 · |input|, and later products carry that on (see `approximate`).
APPROXIMATE = 1e-7
OPEN = 1e30  # alpha of a gate that is 0 or 1, and a limit that is none


def cast(value: Any, dtype: Any) -> Any:
    """Return an argument with its floats converted to another type."""
    return map_floats(value, lambda a: a.astype(dtype))


def each(change: Callable[[Any], Any], value: Any) -> Any:
    """Return an argument with `change` applied to each parameter in it."""
    if isinstance(value, dict):
        return {k: each(change, v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return like(value, [each(change, v) for v in value])
    return change(value) if isinstance(value, np.ndarray | Blocks) else value


def map_floats(value: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Return an argument with `change` applied to each of its float arrays. The argument may be an array,
    a tree of arrays or `Blocks`."""
    if isinstance(value, Blocks):
        named = ("scale", "minimum", "input_scale", "input_factor", "output_scale")
        arrays = {n: a for n in named if (a := getattr(value, n)) is not None}
        return replace(value, **{n: change(a) for n, a in arrays.items()})
    if isinstance(value, dict):
        return {k: map_floats(v, change) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return like(value, [map_floats(v, change) for v in value])
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return change(value)
    return value


def budget(f: Function, call: Call) -> dict[str, float]:
    """Return the error budget of each float output of a call. It includes the error that kernels of this
    function may have because they approximate an activation.
    """
    by_output = budgets(lambda change: call.run(f.body, change))
    if f.name in ACTIVATIONS:
        extra = approximate(lambda change: change(call.arrays["x"]))
        extra *= _curvature(call) if f.name == "xielu" else 1
    elif f.name == "swiglu_oai":
        shut = call.but(gate=-np.abs(np.minimum(call["gate"], call["limit"])), alpha=-OPEN)
        extra = APPROXIMATE * largest(shut.run(f.body))
    elif f.name in MLPS:
        open_gates = _with_open_gates(f, call)
        extra = approximate(lambda change: open_gates.run(f.body, change))
        extra *= _curvature(call) if isinstance(call.settings.get("kind"), XIELU) else 1
        extra *= _stretch(f, call) if call.arrays.get("down_norm") is not None else 1
    elif f.name in ATTENTIONS and (gates := _gates(call)):
        ungated = call.but(**{name: None for name in ("wg", "bg", "w_head_gate") if name in call.arrays})
        extra = approximate(lambda change: next(flat(ungated.run(f.body, change)))[1])
        extra *= len(gates)
    elif f.name in GATED:
        # Four gates, each off by as much as a sigmoid of 1, times what they let through.
        extra = 4 * APPROXIMATE * max(1.0, *(largest(a) for _, a in flat(call.run(f.body))))
    else:
        extra = 0.0
    return {n: b + extra for n, b in by_output.items()}


def _gates(call: Call) -> list[str]:
    """Return the gates of the heads' outputs, if the call has any."""
    return [name for name in ("wg", "w_head_gate") if call.arrays.get(name) is not None]


def _curvature(call: Call) -> float:
    """Return the factor, at least 1, by which xIELU multiplies an exponential. Kernels approximate this
    exponential.
    """
    return 1 + float(np.logaddexp(0, call["alpha_n"].astype(np.float64)).max())


def _stretch(f: Function, call: Call) -> float:
    """Return the largest factor by which a norm of hidden units multiplies their error. The norm also
    reacts to the change of their length.
    """
    weight = call["down_norm"].astype(np.float64)
    units = call.but(down=np.eye(weight.size), bdown=None, down_norm=None).run(f.body)
    lengths = np.sqrt((units.astype(np.float64) ** 2).mean(-1) + call["norm_eps"])
    return 2 * largest(weight) / float(lengths.min(initial=np.inf))


def _with_open_gates(f: Function, call: Call) -> Call:
    """Return the call with an activation that passes positive numbers unchanged, and without top-k."""
    name = "activation" if f.name == "moe" else "kind"
    clamped = isinstance(call[name], SwiGLUOAI)
    every = {"sparsity": None} if "sparsity" in call.settings else {}
    every |= {"down_norm": None} if "down_norm" in call.arrays else {}
    return call.but(**{name: replace(call[name], alpha=OPEN, limit=OPEN) if clamped else "relu"}, **every)


def budgets(run: Callable[[Callable[[Any], Any]], Any]) -> dict[str, float]:
    """Return the error budget of each float output of the specification.

    `run(change)` computes the specification with `change` applied to its arguments.
    """
    rng = np.random.default_rng(0)

    def to_neighbour(a: np.ndarray) -> np.ndarray:
        towards = np.where(rng.random(a.shape) < 0.5, np.inf, -np.inf).astype(np.float32)
        return np.nextafter(a.astype(np.float32), towards).astype(np.float64)

    exact = dict(flat(run(lambda a: cast(a, np.float64))))
    single = dict(flat(run(lambda a: cast(a, np.float32))))
    moved = [dict(flat(run(lambda a: map_floats(a, to_neighbour)))) for _ in range(TRIES)]
    by_output = {}
    for name, values in exact.items():
        if values.dtype.kind == "f":
            terms = error_terms(values, single[name], [other[name] for other in moved], distance=apart)
            by_output[name] = terms.budget
    return by_output


def approximate(run: Callable[[Callable[[Any], Any]], Any]) -> float:
    """Return a bound on the error of a kernel that approximates an activation. The bound is the function's
    result for absolute values, with ReLU as the activation.
    """

    def positive(value: Any) -> Any:
        if isinstance(value, Blocks):
            return np.abs(dequantize(cast(value, np.float64)))
        return map_floats(value, lambda a: np.abs(a.astype(np.float64)))

    return APPROXIMATE * largest(run(lambda argument: each(positive, argument)))


def expected(run: Callable[[Callable[[Any], Any]], Any], dtype: Any) -> dict[str, Any]:
    """Return the expected outputs of a call. Floats come from the specification in float64, integers from
    the specification in `dtype`."""
    exact = dict(flat(run(lambda a: cast(a, np.float64))))
    typed = dict(flat(run(lambda a: cast(a, dtype))))
    return {n: exact[n] if a.dtype.kind == "f" else a for n, a in typed.items()}
