"""Pointwise nonlinearities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ...refimpl.config import XIELU, Activation
from ..torch_bodies import torch_body


@torch_body
def relu(x: Tensor) -> Tensor:
    """Relu."""
    return torch.relu(x)


@torch_body
def relu_squared(x: Tensor) -> Tensor:
    """Relu and Mul."""
    positive = torch.relu(x)
    return positive * positive


@torch_body
def sigmoid(x: Tensor) -> Tensor:
    """Sigmoid."""
    return torch.sigmoid(x)


@torch_body
def silu(x: Tensor) -> Tensor:
    """Sigmoid and Mul, which ONNX Runtime fuses."""
    return functional.silu(x)


@torch_body
def gelu(x: Tensor) -> Tensor:
    """Gelu with the error function."""
    return functional.gelu(x)


@torch_body
def gelu_tanh(x: Tensor) -> Tensor:
    """Gelu with the hyperbolic tangent."""
    return functional.gelu(x, approximate="tanh")


@torch_body
def quick_gelu(x: Tensor) -> Tensor:
    """Mul, Sigmoid and Mul, which ONNX Runtime fuses."""
    return torch.sigmoid(x * 1.702) * x


@torch_body
def mish(x: Tensor) -> Tensor:
    """Softplus, Tanh and Mul."""
    return torch.tanh(functional.softplus(x)) * x


@torch_body
def tanh(x: Tensor) -> Tensor:
    """Tanh."""
    return torch.tanh(x)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)); torch gives x itself above a threshold, and its own of 20 means an error of 2e-9."""
    return functional.softplus(x, threshold=40)


@torch_body
def xielu(x: Tensor, alpha_p: Tensor, alpha_n: Tensor, *, beta: float) -> Tensor:
    """Tanh for exp(x) − 1, which would cancel near 0, and Where."""
    half = torch.tanh(x.clamp(max=XIELU.eps) / 2)
    below = 2 * half / (1 - half) - x
    a, b = (softplus(alpha) for alpha in (alpha_p, alpha_n))
    b = beta + b
    return torch.where(x > 0, a * x * x, b * below) + beta * x


FUNCTIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
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
def activation(x: Tensor, *, kind: Activation) -> Tensor:
    """The nonlinearity by its name in a Config."""
    return FUNCTIONS[kind](x)
