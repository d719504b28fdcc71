"""LAuReL: a residual connection with a learned map of low rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from .dispatch import op
from .linear import linear
from .norm import rms_norm
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float


class LaurelWeights(TypedDict):
    """The parameters of a learned residual: the projection to its few numbers, the projection back, and
    the norm of the result."""

    left: Float[Array, "D F"] | Blocks
    right: Float[Array, "F D"] | Blocks
    norm: Float[Array, " D"]


@op
def laurel(
    x: Float[Array, "B T D"], h: Float[Array, "B T D"], weights: LaurelWeights, *, eps: float
) -> Float[Array, "B T D"]:
    """Average a layer's usual sum h with a learned residual of its input x: (h + x + rms_norm(x · left ·
    right)) / √2.

    A residual connection passes its input on unchanged: y = f(x) + x. Learned Augmented Residual Layers
    (Menghani et al. 2024, LAuReL-LR) add a learned map: y = f(x) + x + x · A · B, with A and B so narrow
    that they cost little compared with f. Gemma 3n (Google 2025) has one beside the usual residual
    connection of attention:

        stream ─┬─ norm ─ x ─┬─ attention ─ norm ──── + ─ h ─┐
                │            │                        │      + ─ /√2 ─ to the mlp
                └────────────┼────────────────────────┘      │
                             └─ left ─ right ─ norm ─ + x ───┘

    Conventions: x is the input of the attention, the stream after its norm; h is the stream plus the
    attention's output. The division by √2 keeps the size, since two sums of similar size are added.
    """
    learned = rms_norm(linear(linear(x, weights["left"]), weights["right"]), weights["norm"], eps=eps)
    return (learned + x + h) * 2**-0.5
