"""The stem of an encoder of sound: two convolutions that make one vector from every two frames.

    frames      x0   x1   x2   x3   x4   x5          100 frames a second, each with a spectrogram's bands
    first       a0   a1   a2   a3   a4   a5          each a reads its frame and the frame on either side
    second      y0        y1        y2               each y reads every other a and both its neighbours

Both convolutions have three taps, and a GELU after them (Whisper, Radford et al. 2022, §2.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from .activation import activation
from .arrays import concatenate, padded
from .dispatch import op
from .linear import linear
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float


class ConvStemWeights(TypedDict):
    """The parameters of the stem. For each convolution, they are three matrices, stacked along the input
    axis, and a bias.
    """

    conv1: Float[Array, "3*C D"] | Blocks
    conv1_bias: Float[Array, " D"]
    conv2: Float[Array, "3*D D"] | Blocks
    conv2_bias: Float[Array, " D"]


@op
def conv_stem(frames: Float[Array, "B 2*T C"], weights: ConvStemWeights) -> Float[Array, "B T D"]:
    """Compute the stem's vectors: y[t] = gelu(b₂ + Σ_j a[2t − 1 + j] V_j) with a[t] = gelu(b₁ + Σ_j x[t −
    1 + j] W_j), for j = 0, 1, 2.

    Conventions: x and a are zero before the first frame and after the last frame. So both convolutions
    equal torch's Conv1d with a padding of 1; the second convolution has a stride of 2.
    """
    first = linear(_beside(frames, 1), weights["conv1"], weights["conv1_bias"])
    hidden = activation(first, kind="gelu")
    second = linear(_beside(hidden, 2), weights["conv2"], weights["conv2_bias"])
    return activation(second, kind="gelu")


def _beside(x: Array, stride: int) -> Array:
    """Return every `stride`-th vector side by side with its two neighbours."""
    around, time = padded(x, 1, 1), x.shape[1]
    return concatenate([around[:, j : j + time : stride] for j in range(3)], -1)
