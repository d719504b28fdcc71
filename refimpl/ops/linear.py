"""Linear maps: y = x W + b."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .quant import Blocks, linear_blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

__all__ = ["linear"]


def linear(
    x: Float[Array, "B T D"],
    weight: Float[Array, "D F"] | Blocks,
    bias: Float[Array, " F"] | None = None,
) -> Float[Array, "B T F"]:
    """A linear map of each token: y[b,t,f] = Σ_d x[b,t,d] · weight[d,f] + bias[f].

    Conventions: the weight stands input-first, so that the formula is `x @ weight`; checkpoints
    store the transpose. A quantized weight (`Blocks`) brings its own rule for the activations.
    """
    if isinstance(weight, Blocks):
        y = linear_blocks(x, weight)
    else:
        # One product for all rows: a stack of B products would leave BLAS at batch > 1, T = 1.
        y = (x.reshape(-1, x.shape[-1]) @ weight).reshape(*x.shape[:-1], weight.shape[1])
    return y if bias is None else y + bias
