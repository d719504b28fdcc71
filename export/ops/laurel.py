"""LAuReL: a residual connection that learns, by a map of low rank."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...refimpl.ops.laurel import LaurelWeights
from ...refimpl.ops.linear import linear
from ...refimpl.ops.norm import rms_norm
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array


@torch_body
def laurel(
    x: Float[Array, "B T D"], h: Float[Array, "B T D"], weights: LaurelWeights, *, eps: float
) -> Float[Array, "B T D"]:
    """Two products, a norm, and a sum of three."""
    narrow = linear(x, weights["left"])
    learned = rms_norm(linear(narrow, weights["right"]), weights["norm"], eps=eps)
    return math.sqrt(0.5) * (learned + x + h)
