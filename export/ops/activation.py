"""Pointwise nonlinearities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional

from ..seam import seam

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

__all__ = ["activation", "gelu", "gelu_tanh", "relu", "sigmoid", "silu", "tanh"]


def relu(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Relu."""
    return torch.relu(x)


def sigmoid(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Sigmoid."""
    return torch.sigmoid(x)


def silu(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Sigmoid and Mul, which ONNX Runtime fuses."""
    return functional.silu(x)


def gelu(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Gelu with the error function."""
    return functional.gelu(x)


def gelu_tanh(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Gelu with the hyperbolic tangent."""
    return functional.gelu(x, approximate="tanh")


def tanh(x: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Tanh."""
    return torch.tanh(x)


@seam
def activation(
    x: Float[Array, "B T F"],
    *,
    kind: Literal["relu", "gelu", "gelu_tanh", "silu", "tanh"],
) -> Float[Array, "B T F"]:
    """The nonlinearity that a Config names."""
    return {"relu": relu, "gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu, "tanh": tanh}[kind](x)
