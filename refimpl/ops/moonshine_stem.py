"""Moonshine's stem of an encoder: three convolutions over the samples of a sound.

    samples      ················································   16,000 a second
    first        └ 127 ┘       64 samples further each; a tanh, and a norm over the whole sound
    second            └ 7 ┘    3 of these further; a GELU
    third               └ 3 ┘  2 of these further; a GELU: 895 samples each, 384 from one to the next

The vectors contain no positions: the layers have rotary ones (Moonshine, Jeffries et al. 2024, §3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from ..config import MoonshineStem
from .activation import activation
from .arrays import row_sum, sqrt, zeros_like
from .conv1d import conv1d
from .dispatch import op
from .wave_stem import ConvolutionWeights

if TYPE_CHECKING:
    from ..axes import Array, Float


class MoonshineStemWeights(TypedDict):
    """The parameters of the stem: those of all convolutions."""

    convolutions: list[ConvolutionWeights]


@op
def moonshine_stem(samples: Array, weights: MoonshineStemWeights, *, settings: MoonshineStem) -> Array:
    """Return the vectors [B, T, D] of the samples [B, N], all of which are real."""
    x = samples[:, :, None]
    for i, (one, leaves) in enumerate(zip(settings.convolutions, weights["convolutions"], strict=True)):
        x = conv1d(x, leaves["kernel"], leaves.get("bias"), stride=one.stride, groups=1)
        if i == 0:
            assert "norm" in leaves
            x = sound_norm(activation(x, kind="tanh"), **leaves["norm"], eps=settings.eps)
        else:
            x = activation(x, kind="gelu")
    return x


@op
def sound_norm(
    x: Float[Array, "B T D"], weight: Float[Array, " D"], bias: Float[Array, " D"], *, eps: float
) -> Float[Array, "B T D"]:
    """y = (x − mean) / sqrt(var + eps) · weight + bias, mean and variance over all times and channels.

    Conventions: this is torch's GroupNorm with one group, but with channels last. Padding would change the
    result. Sums go over channels first and then over times, because one long sum over all numbers of a sound
    would lose digits in float32.
    """
    centred = x - _mean(x)
    return centred / sqrt(_mean(centred * centred) + eps) * weight + bias


def _mean(x: Array) -> Array:
    """The mean [B, 1, 1] of all numbers of a row."""
    times = (row_sum(x) / x.shape[2]).swapaxes(1, 2)
    # Their number is a sum too: a GPU would wait for a size that is a divisor.
    return row_sum(times) / row_sum(zeros_like(times) + 1)
