"""How far a result may lie from the specification's: computed, not guessed.

    budget = 4 · (A + J + u)   over a whole output
    A = max |spec in float32 − spec in float64|
    J = the most that the float64 spec moves when its inputs move by one float32 ulp (three tries)
    u = 2⁻²³ · max |spec in float64|

A alone is unstable (a lucky float32 run makes it 0), and so is anything element by element. The
factor was measured: without it no draw of 600 a function passed 1.3 budgets, with it a doubled eps
or a window that is off by one is still seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from declare import flat
from tfm.refimpl.ops.quant import Blocks, dequantize

FACTOR = 4.0
TRIES = 3
ULP = 2.0**-23
# The mirror in float64 against the spec in float64, as a share of the float32 budget: 52 − 23 bits
# finer, and twice that since float64 intermediates round in another order.
FINE = 2.0**-28
# Kernels that approximate rather than round: ONNX Runtime's Sigmoid has an absolute error of 6.5e-8
# and is exactly 0 below −18, and torch's and ONNX Runtime's erf are about as far off. An activation
# is therefore within 1e-7 · |input|, which later products carry on (see `approximate`).
APPROXIMATE = 1e-7


def cast(value: Any, dtype: Any) -> Any:
    """An argument with its floats in another type."""
    return _floats(value, lambda a: a.astype(dtype))


def _floats(value: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    if isinstance(value, Blocks):
        minimum = None if value.minimum is None else change(value.minimum)
        return replace(value, scale=change(value.scale), minimum=minimum)
    if isinstance(value, dict):
        return {k: _floats(v, change) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_floats(v, change) for v in value)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return change(value)
    return value


def budgets(run: Callable[[Callable[[Any], Any]], Any]) -> dict[str, float]:
    """The budget of each float output; `run(change)` is the spec with `change` done to its arguments."""
    rng = np.random.default_rng(0)
    exact = dict(flat(run(lambda a: cast(a, np.float64))))
    single = dict(flat(run(lambda a: cast(a, np.float32))))
    found = {n: ULP * largest(a) + largest(single[n] - a) for n, a in exact.items() if a.dtype.kind == "f"}
    moves = dict.fromkeys(found, 0.0)

    def moved(a: np.ndarray) -> np.ndarray:
        towards = np.where(rng.random(a.shape) < 0.5, np.inf, -np.inf).astype(np.float32)
        return np.nextafter(a.astype(np.float32), towards).astype(np.float64)

    for _ in range(TRIES):
        result = dict(flat(run(lambda a: _floats(a, moved))))
        for n in moves:
            moves[n] = max(moves[n], largest(result[n] - exact[n]))
    return {n: FACTOR * (found[n] + moves[n]) for n in found}


def approximate(run: Callable[[Callable[[Any], Any]], Any]) -> float:
    """What an activation kernel's error may come to: the function of absolute values, act = ReLU."""

    def positive(value: Any) -> Any:
        if isinstance(value, Blocks):
            return np.abs(dequantize(cast(value, np.float64)))
        return np.abs(value.astype(np.float64)) if isinstance(value, np.ndarray) else value

    return APPROXIMATE * largest(run(positive))


def largest(a: np.ndarray) -> float:
    return float(np.max(np.abs(a), initial=0))


def compare(
    label: str, got: dict[str, Any], wanted: dict[str, Any], budget: dict[str, float], share: float = 1.0
) -> None:
    """Floats within their budget, whole numbers and booleans equal; says what is off and by how much."""
    assert list(got) == list(wanted), f"{label} gave {list(got)}, expected {list(wanted)}"
    for n, want in wanted.items():
        have = np.asarray(got[n])
        assert have.shape == want.shape, f"{label} {n}: shape {have.shape}, expected {want.shape}"
        if want.dtype.kind != "f":
            off = int((have != want).sum())
            assert not off, f"{label} {n}: {off} of {want.size} differ, got {have}, expected {want}"
            continue
        assert np.isfinite(have).all(), f"{label} {n}: not finite where the spec is"
        error, allowed = largest(have.astype(np.float64) - want), share * budget[n]
        assert error <= allowed, f"{label} {n}: off by {error:.3g}, budget {allowed:.3g}"


def expected(run: Callable[[Callable[[Any], Any]], Any], dtype: Any) -> dict[str, Any]:
    """What to compare with: floats as the float64 spec has them, whole numbers as it has them in dtype."""
    exact = dict(flat(run(lambda a: cast(a, np.float64))))
    typed = dict(flat(run(lambda a: cast(a, dtype))))
    return {n: exact[n] if a.dtype.kind == "f" else a for n, a in typed.items()}


# Two float64 computations of one law: rounding of sums of a few hundred terms, far below a mistake.
LAW = 1e-10


def equal(got: Any, wanted: Any, share: float = LAW) -> None:
    """Two float64 arrays of one law agree but for rounding, on the scale of the larger."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape, f"shape {got.shape}, expected {wanted.shape}"
    error, allowed = largest(got - wanted), share * max(largest(wanted), 1.0)
    assert error <= allowed, f"off by {error:.3g}, a law in float64 allows {allowed:.3g}"
