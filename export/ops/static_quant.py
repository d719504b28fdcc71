"""Quantization with given scales in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor as Array


@torch_body
def static_quantize(
    x: Float[Array, "M D"],
    scale: Float[Array, " D"],
    zero: Int[Array, " D"],
    *,
    bits: int,
    signed: bool,
) -> Int[Array, "M D"]:
    """Division, rounding, shift by the zero point, clamp."""
    low = -(2 ** (bits - 1)) if signed else 0
    silent = scale == 0
    steps = torch.round(x / scale.masked_fill(silent, 1)).masked_fill(silent, 0)
    return (steps + zero).clamp(low, low + 2**bits - 1).int()


@torch_body
def static_dequantize(
    codes: Int[Array, "M D"],
    scale: Float[Array, " D"],
    zero: Int[Array, " D"],
) -> Float[Array, "M D"]:
    """Centred codes times their scales."""
    return (codes - zero).to(scale.dtype) * scale


@torch_body
def integer_matmul(
    a: Int[Array, "M D"],
    b: Int[Array, "D F"],
    zero_a: Int[Array, " M"],
    zero_b: Int[Array, " F"],
) -> Int[Array, "M F"]:
    """A product of centred integers."""
    return (a - zero_a[:, None]).int() @ (b - zero_b).int()
