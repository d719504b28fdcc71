"""Pointwise nonlinearities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...refimpl.config import XIELU
from ...refimpl.ops.arrays import softplus
from ..torch_bodies import torch_body


@torch_body
def relu(x: Tensor) -> Tensor:
    """Exported to ONNX as Relu."""
    return torch.relu(x)


@torch_body
def sigmoid(x: Tensor) -> Tensor:
    """Exported to ONNX as Sigmoid."""
    return torch.sigmoid(x)


@torch_body
def precise_sigmoid(x: Tensor) -> Tensor:
    """Compute by exp, because ONNX Runtime's Sigmoid has an error of 6e-8, so that for −16 none of its digits
    is right.
    """
    e = torch.exp(-x.abs())
    return torch.where(x >= 0, 1, e) / (1 + e)


@torch_body
def silu(x: Tensor) -> Tensor:
    """Exported to ONNX as Sigmoid and Mul, which ONNX Runtime fuses."""
    return functional.silu(x)


@torch_body
def gelu(x: Tensor) -> Tensor:
    """Exported to ONNX as Gelu with the error function."""
    return functional.gelu(x)


@torch_body
def gelu_tanh(x: Tensor) -> Tensor:
    """Exported to ONNX as Gelu with the hyperbolic tangent."""
    return functional.gelu(x, approximate="tanh")


@torch_body
def tanh(x: Tensor) -> Tensor:
    """Exported to ONNX as Tanh."""
    return torch.tanh(x)


@torch_body
def xielu(x: Tensor, alpha_p: Tensor, alpha_n: Tensor, *, beta: float) -> Tensor:
    """Exported to ONNX as Tanh and Where. Tanh replaces exp(x) − 1, which would lose digits near 0."""
    half = torch.tanh(x.clamp(max=XIELU.eps) / 2)
    below = 2 * half / (1 - half) - x
    a, b = (softplus(alpha) for alpha in (alpha_p, alpha_n))
    b = beta + b
    return torch.where(x > 0, a * x * x, b * below) + beta * x
