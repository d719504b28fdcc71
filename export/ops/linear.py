"""Linear maps: y = x W + b."""

from __future__ import annotations

from torch import Tensor

from ...refimpl.ops.quant import Blocks, linear_blocks
from ..torch_bodies import torch_body


@torch_body
def linear(x: Tensor, weight: Tensor | Blocks, bias: Tensor | None = None) -> Tensor:
    """MatMul and Add."""
    y = linear_blocks(x, weight) if isinstance(weight, Blocks) else x @ weight
    return y if bias is None else y + bias
