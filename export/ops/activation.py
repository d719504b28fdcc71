"""Implement pointwise nonlinearities in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...refimpl.config import XIELU
from ...refimpl.ops.arrays import softplus
from ..torch_bodies import torch_body


@torch_body
def relu(x: Tensor) -> Tensor:
    """Compute max(x, 0) for each element, as a Relu in ONNX."""
    return torch.relu(x)


@torch_body
def sigmoid(x: Tensor) -> Tensor:
    """Compute 1 / (1 + exp(−x)) for each element, as a Sigmoid in ONNX."""
    return torch.sigmoid(x)


@torch_body
def precise_sigmoid(x: Tensor) -> Tensor:
    """Compute the sigmoid of each element from exp(−|x|), so that even tiny results have all their digits
    right.

    ONNX Runtime's Sigmoid has an error of 6e-8. For x = −16, this is as large as the result.
    """
    e = torch.exp(-x.abs())
    return torch.where(x >= 0, 1, e) / (1 + e)


@torch_body
def silu(x: Tensor) -> Tensor:
    """Compute x · sigmoid(x) for each element, as a Sigmoid and a Mul in ONNX. ONNX Runtime fuses the two."""
    return functional.silu(x)


@torch_body
def gelu(x: Tensor) -> Tensor:
    """Compute the exact GELU of each element, as a Gelu with the error function in ONNX."""
    return functional.gelu(x)


@torch_body
def gelu_tanh(x: Tensor) -> Tensor:
    """Compute GELU's approximation by tanh for each element, as a Gelu with the hyperbolic tangent in
    ONNX.
    """
    return functional.gelu(x, approximate="tanh")


@torch_body
def tanh(x: Tensor) -> Tensor:
    """Compute the hyperbolic tangent of each element, as a Tanh in ONNX."""
    return torch.tanh(x)


@torch_body
def xielu(x: Tensor, alpha_p: Tensor, alpha_n: Tensor, *, beta: float) -> Tensor:
    """Compute xIELU for each element, with Tanh and Where in ONNX. Tanh is used to compute exp(x) − 1,
    because the difference itself would lose digits near 0.
    """
    half = torch.tanh(x.clamp(max=XIELU.eps) / 2)
    below = 2 * half / (1 - half) - x
    a, b = (softplus(alpha) for alpha in (alpha_p, alpha_n))
    b = beta + b
    return torch.where(x > 0, a * x * x, b * below) + beta * x
