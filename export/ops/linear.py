"""Linear maps: y = x W + b."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...refimpl.ops.quant import Blocks, linear_blocks
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array


@torch_body
def linear(
    x: Float[Array, "B T D"],
    weight: Float[Array, "D F"] | Blocks,
    bias: Float[Array, " F"] | None = None,
) -> Float[Array, "B T F"]:
    """MatMul and Add."""
    y = linear_blocks(x, weight) if isinstance(weight, Blocks) else x @ weight
    return y if bias is None else y + bias
