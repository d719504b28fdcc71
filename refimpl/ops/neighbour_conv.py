"""A convolution over neighbours: each token gets a linear map of itself and of a few tokens on either
side.

DeBERTa v2 has such a convolution beside its first layer. So the vectors of word pieces contain the pieces
around them, like an n-gram. Unlike a short convolution (`ops.short_conv`), this convolution reads later
tokens too, and mixes channels:

    y[t] = x[t − A] W₀ + … + x[t] W_A + … + x[t + A] W_2A + b

    tokens      x0   x1   x2   x3  | padding          A = 1
    y0          .    W1   W2                          vectors before and after a text are zero
    y3                    W0   W1    .
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

from .arrays import concatenate, indices, padded, where
from .dispatch import op
from .linear import linear
from .mask import padding_mask
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class NeighbourConvWeights(TypedDict):
    """The parameters of a convolution over neighbours: its 2A + 1 matrices, stacked along the input axis,
    and its bias.
    """

    weight: Float[Array, "2*A*D+D D"] | Blocks
    bias: NotRequired[Float[Array, " D"]]


@op
def neighbour_conv(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    weights: NeighbourConvWeights,
    *,
    neighbours: int,
) -> Float[Array, "B T D"]:
    """Compute a convolution over neighbours: y[t] = b + Σ_j x[t − A + j] W_j, with A = `neighbours`, over
    the first `lengths[b]` tokens of each row.

    The convolution is computed as one product: the vectors around each token, side by side, times the
    stacked matrices. It equals torch's Conv1d with A zeros of padding. Conventions: rows are padded on the
    right; outputs at padding are unspecified.
    """
    t = x.shape[1]
    real = padding_mask(indices(t, x), lengths)[..., None]
    around = padded(where(real, x, 0), neighbours, neighbours)
    beside = concatenate([around[:, j : j + t] for j in range(2 * neighbours + 1)], -1)
    return linear(beside, weights["weight"], weights.get("bias"))
