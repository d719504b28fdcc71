"""LAuReL: a residual connection that learns, by a map of low rank."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypedDict

from .linear import linear
from .norm import rms_norm
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

__all__ = ["LaurelWeights", "laurel"]


class LaurelWeights(TypedDict):
    """The leaves of a learned residual: the maps to its rank and back, and the norm of their result."""

    left: Float[Array, "D F"] | Blocks
    right: Float[Array, "F D"] | Blocks
    norm: Float[Array, " D"]


def laurel(
    x: Float[Array, "B T D"], h: Float[Array, "B T D"], weights: LaurelWeights, *, eps: float
) -> Float[Array, "B T D"]:
    """Two products, a norm, and a sum of three."""
    narrow = linear(x, weights["left"])
    learned = rms_norm(linear(narrow, weights["right"]), weights["norm"], eps=eps)
    return math.sqrt(0.5) * (learned + x + h)
