"""The stem of an encoder that reads the samples of a sound, and the stem's positions.

    samples      ················································   16,000 a second
    first        └ 10 ┘          each convolution has fewer vectors than the previous one, from more samples
    …                └ 10 ┘
    last         y0        y1        y2         wav2vec 2.0: 400 samples each, 320 from one to the next

The vectors contain no positions. A convolution over many vectors provides positions, and its result is
added to the vectors. The result depends on the vectors around each position, and on the ends of the sound,
beyond which everything is zero (wav2vec 2.0, Baevski et al. 2020, §2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

from ..config import ConvPositions, LayerNorm, WaveStem
from .activation import activation
from .arrays import padded
from .conv1d import conv1d
from .dispatch import op
from .linear import linear
from .norm import NormWeights, layer_norm, normalize
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float


class ConvolutionWeights(TypedDict):
    """The parameters of a convolution in a stem: its kernel in torch's layout, its bias, and the norm
    after it.

    These parameters stay in floating point, because they are few and their rounding errors affect all
    layers.
    """

    kernel: Float[Array, "F C A+1"]
    bias: NotRequired[Float[Array, " F"]]
    norm: NotRequired[NormWeights]


class WaveStemWeights(TypedDict):
    """The parameters of the stem: the parameters of all convolutions, of the last norm, and of the map to
    the model's width.
    """

    convolutions: list[ConvolutionWeights]
    norm: NotRequired[NormWeights]
    project: Float[Array, "C D"] | Blocks
    project_bias: Float[Array, " D"]


@op
def wave_stem(samples: Array, weights: WaveStemWeights, *, settings: WaveStem) -> Array:
    """Return the vectors [B, T, D] of a sound's samples [B, N]. All samples must be real, not padding.

    Each convolution is followed by its norm and an activation. At the end come a norm and a map to the
    model's width.
    """
    x = samples[:, :, None]
    each = LayerNorm(settings.eps)
    for i, (one, leaves) in enumerate(zip(settings.convolutions, weights["convolutions"], strict=True)):
        x = conv1d(x, leaves["kernel"], leaves.get("bias"), stride=one.stride, groups=1)
        if settings.normalized == "each":
            x = normalize(x, leaves.get("norm"), norm=each)
        elif i == 0:
            assert "norm" in leaves
            x = time_norm(x, **leaves["norm"], eps=settings.eps)
        x = activation(x, kind=settings.activation)
    x = normalize(x, weights.get("norm"), norm=settings.norm)
    return linear(x, weights["project"], weights["project_bias"])


@op
def time_norm(
    x: Float[Array, "B T D"], weight: Float[Array, " D"], bias: Float[Array, " D"], *, eps: float
) -> Float[Array, "B T D"]:
    """Normalize each channel over all of its times: y = (x − mean_t) / sqrt(var_t + eps) · weight + bias.

    Conventions: this is torch's GroupNorm with one channel per group, but with channels last. Padding
    would change the result.
    """
    return layer_norm(x.swapaxes(1, 2), eps=eps).swapaxes(1, 2) * weight + bias


@op
def conv_positions(x: Array, kernel: Array, bias: Array, *, settings: ConvPositions) -> Array:
    """Return the vectors of positions to add to x [B, T, D]: the activation of a convolution over the
    vectors around each position.

    A convolution over an even number of vectors includes one more vector before the position than after
    it.
    """
    around = padded(x, settings.length // 2, (settings.length - 1) // 2)
    return activation(
        conv1d(around, kernel, bias, stride=1, groups=settings.groups), kind=settings.activation
    )
