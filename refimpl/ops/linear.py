"""Linear layers: y = x W + b."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .arrays import each_row
from .dispatch import op
from .quant import Blocks, linear_blocks

if TYPE_CHECKING:
    from ..axes import Array, Float


@op
def linear(
    x: Float[Array, "B T D"],
    weight: Float[Array, "D F"] | Blocks,
    bias: Float[Array, " F"] | None = None,
) -> Float[Array, "B T F"]:
    """Apply a linear map to each token: y[b,t,f] = Σ_d x[b,t,d] · weight[d,f] + bias[f].

    Conventions: the weight is [input, output], so that the formula is `x @ weight`; checkpoints store the
    transpose. A quantized weight (`Blocks`) says itself how x is quantized.
    """
    y = linear_blocks(x, weight) if isinstance(weight, Blocks) else each_row(x, weight)
    return y if bias is None else y + bias
