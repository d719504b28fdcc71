"""Pointwise nonlinearities: functions that are applied to each element of an array."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..config import XIELU
from .arrays import softplus
from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Float
    from ..config import Activation


@op
def relu(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Compute max(x, 0) for each element."""
    return np.maximum(x, 0)


@op
def relu_squared(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Compute max(x, 0)² for each element (So et al. 2021, Primer)."""
    positive = relu(x)
    return positive * positive


@op
def sigmoid(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Compute σ(x) = 1 / (1 + exp(−x)) for each element.

    Conventions: only exp(−|x|) is computed, so no input overflows.
    """
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


@op
def precise_sigmoid(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Compute `sigmoid` so precisely that even a tiny result has all its digits right. This matters for
    vectors that are later divided by their own length.
    """
    return sigmoid(x)


@op
def precise_silu(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Compute `silu` with `precise_sigmoid` in place of `sigmoid`."""
    return x * precise_sigmoid(x)


@op
def silu(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Compute x · σ(x) for each element (Elfwing et al. 2017; the same as swish with β = 1)."""
    return x * sigmoid(x)


@op
def gelu(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Compute the exact GELU: x · Φ(x) = x/2 · (1 + erf(x / √2)) (Hendrycks & Gimpel 2016).

    Conventions: the C library computes erf in float64, and the result is rounded once to x's type.
    """
    erf = np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)).astype(x.dtype)
    return x / 2 * (1 + erf)


@op
def gelu_tanh(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Compute GELU's approximation by tanh, as GPT-2 and Gemma do: x/2 · (1 + tanh(√(2/π) · (x + 0.044715
    x³))).
    """
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


@op
def quick_gelu(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Compute GELU's approximation by a sigmoid, as CLIP does: x · σ(1.702 x). This is the coarser one of
    GELU's two approximations (Hendrycks & Gimpel 2016).
    """
    return x * sigmoid(1.702 * x)


@op
def mish(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Compute x · tanh(ln(1 + exp(x))) for each element (Misra 2019)."""
    return x * tanh(softplus(x))


@op
def tanh(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Compute tanh(x) for each element, for example in BERT's pooler."""
    return np.tanh(x)


@op
def xielu(
    x: Float[Array, "B T F"], alpha_p: Float[Array, " 1"], alpha_n: Float[Array, " 1"], *, beta: float
) -> Float[Array, "B T F"]:
    """Compute xIELU: a x² + β x for x above 0, and b (exp(x) − 1 − x) + β x for x below 0.

    Here a = ln(1 + exp(alpha_p)) and b = β + ln(1 + exp(alpha_n)). The authors chose the function's slope
    and integrated it:

        slope |             /      above 0   2a x + β: it grows without limit, like a squared ReLU's slope
              |           /        at 0      β
            β |_ _ _ _ _/          below 0   b (exp(x) − 1) + β: it falls to β − b, like an ELU's slope
              |     .-' |
        ------+--.------+-----> x
        β − b |.        0

    a and b are learned; each layer has one a and one b. ln(1 + exp(·)) keeps a above 0 and b above β,
    whatever values of alpha_p and alpha_n training finds. So the slope becomes negative somewhere below 0,
    and the function has a minimum there. Huang & Schlag 2024, "Deriving activation functions using
    integration" (arXiv 2411.13010); Apertus 2025.

    Conventions: as in the authors' code, the argument of exp is min(x, ε) with ε = −1e-6. So at 0 the
    result is about −1e-6 b.
    """
    a, b = softplus(alpha_p), beta + softplus(alpha_n)
    curved = np.where(x > 0, a * x * x, b * (np.expm1(np.minimum(x, XIELU.eps)) - x))
    return (curved + beta * x).astype(x.dtype)


@op
def activation(
    x: Float[Array, "B T F"],
    *,
    kind: Activation,
) -> Float[Array, "B T F"]:
    """Apply the nonlinearity that a Config calls by this name to each element of x."""
    match kind:
        case "relu":
            return relu(x)
        case "gelu":
            return gelu(x)
        case "gelu_tanh":
            return gelu_tanh(x)
        case "silu":
            return silu(x)
        case "tanh":
            return tanh(x)
        case "quick_gelu":
            return quick_gelu(x)
        case "relu_squared":
            return relu_squared(x)
        case "sigmoid":
            return sigmoid(x)
        case "mish":
            return mish(x)
