"""Laws of pointwise nonlinearities."""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law


@law("relu")
def negative_numbers_become_zero(relu: Subject, draw: Draw) -> None:
    """`relu` returns at least 0, and relu(x) − relu(−x) equals x."""
    call = draw(relu.calls())
    other = call.but(x=-call["x"])
    assert not (relu(call) < 0).any(), "a result is negative"
    relu.near(relu(call) - relu(other), call["x"], call, other)


@law("silu", "gelu", "gelu_tanh", "quick_gelu")
def the_gate_and_its_mirror_sum_to_one(gate: Subject, draw: Draw) -> None:
    """An activation of the form f(x) = x · g(x) satisfies f(x) − f(−x) = x, because the gate satisfies
    g(x) + g(−x) = 1.
    """
    call = draw(gate.calls())
    other = call.but(x=-call["x"])
    gate.near(gate(call) - gate(other), call["x"], call, other)


@law("precise_sigmoid")
def small_results_have_all_digits(sigmoid: Subject, draw: Draw) -> None:
    """If x is far below 0, `precise_sigmoid` returns eˣ / (1 + eˣ) with an error of a few ulp of the
    result itself.
    """
    call = draw(sigmoid.calls())
    x = -np.minimum(8 * abs(call["x"]), 80)
    e = np.exp(x.astype(np.float64))
    error = abs(sigmoid(call.but(x=x)) * (1 + e) / e - 1)
    assert (error <= 8 * np.finfo(np.float32).eps).all(), "a small result is less exact than 8 eps"


@law("sigmoid", "precise_sigmoid")
def a_sigmoid_and_its_mirror_sum_to_one(sigmoid: Subject, draw: Draw) -> None:
    """A sigmoid satisfies σ(x) + σ(−x) = 1, and both values lie in [0, 1]."""
    call = draw(sigmoid.calls())
    other = call.but(x=-call["x"])
    y = sigmoid(call)
    assert not ((y < 0) | (y > 1)).any(), "a result is outside [0, 1]"
    sigmoid.near(y + sigmoid(other), np.ones(y.shape), call, other)


@law("relu_squared")
def the_positive_part_is_squared(relu_squared: Subject, draw: Draw) -> None:
    """`relu_squared` returns at least 0, and f(x) − f(−x) equals x · |x|."""
    call = draw(relu_squared.calls())
    other = call.but(x=-call["x"])
    assert not (relu_squared(call) < 0).any(), "a result is negative"
    expected = call["x"] * abs(call["x"])
    relu_squared.near(relu_squared(call) - relu_squared(other), expected, call, other)


@law("xielu")
def doubling_shows_the_curves(xielu: Subject, draw: Draw) -> None:
    """For xIELU, f(2x) − 2 f(x) has no linear term: the difference is 2a x² for x above 0, and b (exp(x) −
    1)² for x below 0.
    """
    call = draw(xielu.calls())
    x = call["x"].astype(np.float64)
    x = np.where(x < 0, -1, 1) * np.maximum(abs(x), 2.0**-10)  # −1e-6 and 0 aren't told apart
    once = call.but(x=x.astype(np.float32))
    x = once["x"].astype(np.float64)
    twice = once.but(x=2 * once["x"])
    alphas = (call[name].astype(np.float64) for name in ("alpha_p", "alpha_n"))
    a, b = (np.maximum(alpha, 0) + np.log1p(np.exp(-abs(alpha))) for alpha in alphas)
    expected = np.where(x > 0, 2 * a * x**2, (call["beta"] + b) * (1 - np.exp(np.minimum(x, 0))) ** 2)
    xielu.near(xielu(twice) - 2 * xielu(once), expected, once, twice, times=2)


@law("xielu")
def without_curves_it_is_an_elu(xielu: Subject, draw: Draw) -> None:
    """If both alphas are far below 0, xIELU is β times an ELU: β x for x above 0, and β (exp(x) − 1) for x
    below 0.
    """
    call = draw(xielu.calls())
    flat = np.array([-1e4], np.float32)
    call = call.but(alpha_p=flat, alpha_n=flat)
    x = call["x"].astype(np.float64)
    expected = call["beta"] * np.where(x > 0, x, np.exp(np.minimum(x, -1e-6)) - 1)
    xielu.near(xielu(call), expected, call)


@law("mish")
def the_gate_is_a_ratio_of_exponentials(mish: Subject, draw: Draw) -> None:
    """The gate of `mish`, tanh(ln(1 + eˣ)), equals n / (n + 2) with n = (1 + eˣ)² − 1. For positive x,
    both parts of the ratio are divided by e²ˣ.
    """
    call = draw(mish.calls())
    x = call["x"].astype(np.float64)
    e = np.exp(-abs(x))
    n = np.where(x > 0, 1 + 2 * e, e * (e + 2))
    mish.near(mish(call), x * n / (n + np.where(x > 0, 2 * e * e, 2)), call)


@law("tanh")
def tanh_is_odd(tanh: Subject, draw: Draw) -> None:
    """`tanh` satisfies tanh(−x) = −tanh(x), and both values lie in [−1, 1]."""
    call = draw(tanh.calls())
    other = call.but(x=-call["x"])
    y = tanh(call)
    assert not (abs(y) > 1).any(), "a result is outside [−1, 1]"
    tanh.near(y, -tanh(other), call, other)


@law("relu", "sigmoid", "silu", "gelu", "gelu_tanh", "quick_gelu", "mish", "tanh")
def large_numbers_do_not_overflow(kernel: Subject, draw: Draw) -> None:
    """Activations don't overflow. For a large negative x, an activation returns 0; for a large positive x,
    it returns x. A sigmoid or tanh returns its limits instead.
    """
    call = draw(kernel.calls())
    for far in (-3e4, 3e4):
        y = kernel(call.but(x=np.full_like(call["x"], far)))
        saturated = far > 0 if kernel.f.name == "sigmoid" else np.sign(far)
        expected = saturated if kernel.f.name in ("sigmoid", "tanh") else max(far, 0)
        assert (y == expected).all(), f"the result at {far:g} is {y.flat[0]}, expected {expected}"
