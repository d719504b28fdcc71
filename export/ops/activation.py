"""Pointwise nonlinearities."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ...refimpl.config import XIELU
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.config import Activation


@torch_body
def relu(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Relu."""
    return torch.relu(x)


@torch_body
def relu_squared(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Relu and Mul."""
    positive = torch.relu(x)
    return positive * positive


@torch_body
def sigmoid(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Sigmoid."""
    return torch.sigmoid(x)


@torch_body
def silu(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Sigmoid and Mul, which ONNX Runtime fuses."""
    return functional.silu(x)


@torch_body
def gelu(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Gelu with the error function."""
    return functional.gelu(x)


@torch_body
def gelu_tanh(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Gelu with the hyperbolic tangent."""
    return functional.gelu(x, approximate="tanh")


@torch_body
def quick_gelu(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Mul, Sigmoid and Mul, which ONNX Runtime fuses."""
    return torch.sigmoid(x * 1.702) * x


@torch_body
def mish(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Softplus, Tanh and Mul."""
    return torch.tanh(functional.softplus(x)) * x


@torch_body
def tanh(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Tanh."""
    return torch.tanh(x)


def softplus(x: Array) -> Array:
    """log(1 + exp(x)); torch gives x itself above a threshold, and its own of 20 means an error of 2e-9."""
    return functional.softplus(x, threshold=40)


@torch_body
def xielu(
    x: Float[Array, "B T F"], alpha_p: Float[Array, " 1"], alpha_n: Float[Array, " 1"], *, beta: float
) -> Float[Array, "B T F"]:
    """Tanh for exp(x) − 1, which would cancel near 0, and Where."""
    half = torch.tanh(x.clamp(max=XIELU.eps) / 2)
    below = 2 * half / (1 - half) - x
    a, b = (softplus(alpha) for alpha in (alpha_p, alpha_n))
    b = beta + b
    return torch.where(x > 0, a * x * x, b * below) + beta * x


FUNCTIONS: dict[Activation, Callable[[Array], Array]] = {
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "tanh": tanh,
    "quick_gelu": quick_gelu,
    "relu_squared": relu_squared,
    "sigmoid": sigmoid,
    "mish": mish,
}


@torch_body
def activation(
    x: Float[Array, "B T F"],
    *,
    kind: Activation,
) -> Float[Array, "B T F"]:
    """The nonlinearity by its name in a Config."""
    return FUNCTIONS[kind](x)
