"""Moonshine's stem of an encoder: three convolutions over the samples of a sound.

    samples      ················································   16,000 a second
    first        └ 127 ┘       reads 127 samples, then moves by 64; followed by a tanh and a norm
    second            └ 7 ┘    reads 7 of the first's vectors, then moves by 3; followed by a GELU
    third               └ 3 ┘  reads 3 of the second's vectors, then moves by 2; followed by a GELU

The norm goes over the whole sound. Each vector of the third convolution depends on 895 samples, and the
next vector on samples that begin 384 samples later. The vectors contain no positions, because the layers
have rotary positions (Moonshine, Jeffries et al. 2024, §3).
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
    """The parameters of Moonshine's stem: the parameters of each convolution, with the norm after the
    first one.
    """

    convolutions: list[ConvolutionWeights]


@op
def moonshine_stem(samples: Array, weights: MoonshineStemWeights, *, settings: MoonshineStem) -> Array:
    """Return the vectors [B, T, D] of a sound's samples [B, N]. All samples must be real, not padding."""
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
    """Normalize a sound over all its times and channels: y = (x − mean) / sqrt(var + eps) · weight + bias.

    Conventions: this is torch's GroupNorm with one group, but with channels last. Padding would change the
    result. Sums go over channels first and then over times, because one long sum over all numbers of a
    sound would lose digits in float32.
    """
    centred = x - _mean(x)
    return centred / sqrt(_mean(centred * centred) + eps) * weight + bias


def _mean(x: Array) -> Array:
    """Return the mean [B, 1, 1] of all numbers of each row."""
    times = (row_sum(x) / x.shape[2]).swapaxes(1, 2)
    # Their number is a sum too: a GPU would wait for a size that is a divisor.
    return row_sum(times) / row_sum(zeros_like(times) + 1)
