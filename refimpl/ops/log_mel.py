"""Log-mel spectrograms: the input of a model that reads sound instead of tokens.

A sound is cut into overlapping windows, `hop` samples apart. For each window the power of each frequency
is computed. These powers are summed over bands. As in human hearing, the bands are narrow for low tones
and wide for high tones:

    sound       ──────────────────────────────────       16,000 samples a second
    windows       [ 0 ]                                    400 samples, around sample 0, 160, 320, …
                     [ 1 ]
                        [ 2 ]
    powers      of 201 frequencies each, 0 to 8,000 Hz
    bands       80 or 128 triangles over the frequencies, as wide as their neighbours' distance in mel
    frame       the logarithms of the bands: Whisper's encoder reads 100 frames a second

The numbers are Whisper's (Radford et al. 2022, §2.2). The mel scale and the triangles are from Slaney's
Auditory Toolbox (1998) and are the default of librosa.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Float

LINEAR = 15.0  # mel below which the scale is linear, 1,000 Hz
HERTZ = 200 / 3  # a mel, there
OCTAVES = np.log(6.4) / 27  # above it, 27 mel are a factor of 6.4


@op
def hann_window(samples: Float[Array, " M"]) -> Float[Array, " M"]:
    """Return the Hann window ½ − ½ cos(2π n / M) at the samples n, which are 0 … M − 1.

    Conventions: the window is periodic: sample M would equal sample 0. This is torch's default, and
    spectra need a periodic window.
    """
    return 0.5 - 0.5 * np.cos(2 * np.pi * samples / len(samples))


@op
def power_spectrum(
    sound: Float[Array, "B T*A"], window: Float[Array, " 2*J"], *, hop: int
) -> Float[Array, "B T J+1"]:
    """Return the power of each frequency f = 0 … J in each window t: |Σ_n w[n] · s[t · hop + n − J] ·
    e^(−2πi f n / 2J)|².

    Conventions: window t is centred on sample t · hop, and the sound is mirrored at both ends without
    repeating the end itself, as in torch.stft. The last window of torch.stft is left out, as in Whisper.
    """
    half = len(window) // 2
    mirrored = np.pad(sound, ((0, 0), (half, half)), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(mirrored, 2 * half, axis=1)[:, ::hop]
    frames = frames[:, : sound.shape[1] // hop]
    spectrum = np.fft.rfft(frames * window, axis=-1)
    return (spectrum.real**2 + spectrum.imag**2).astype(sound.dtype)


@op
def mel_frequencies(mel: Float[Array, " M"]) -> Float[Array, " M"]:
    """Return the frequencies in Hz that belong to these numbers m on Slaney's mel scale.

    Up to 15 mel, the frequency is 200/3 · m. From there, it is 1000 · 6.4^((m − 15) / 27).
    """
    above = np.maximum(mel - LINEAR, 0)
    return np.where(mel < LINEAR, mel * HERTZ, LINEAR * HERTZ * np.exp(OCTAVES * above)).astype(mel.dtype)


@op
def mel_filters(frequencies: Float[Array, " F"], edges: Float[Array, " D+2"]) -> Float[Array, "F D"]:
    """Return triangular filters over the frequencies: band d rises from edge d to edge d + 1 and falls to
    edge d + 2.

    Conventions: each triangle has an area of one over the frequencies (Slaney), so its peak is 2 /
    (e_{d+2} − e_d). A band with edges that don't ascend is zero.
    """
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    at = frequencies[:, None]
    rise, fall, width = (np.where(d > 0, d, np.inf) for d in (middle - low, high - middle, high - low))
    triangles = np.minimum((at - low) / rise, (high - at) / fall)
    return (np.maximum(triangles, 0) * (2 / width)).astype(edges.dtype)


@op
def log_mel(
    power: Float[Array, "B T F"],
    filters: Float[Array, "F D"],
    *,
    least: float,
    span: float,
) -> Float[Array, "B T D"]:
    """Return the frames of a log-mel spectrogram: y = (max(x, max x − span) + 4) / 4 with x = log₁₀
    max(power · filters, least). Whisper's span and least are 8 and 10⁻¹⁰.

    Conventions: max x is taken over the whole row, so each frame depends on the loudest frame of its
    sound.
    """
    x = np.log10(np.maximum(power @ filters, least))
    return (np.maximum(x, x.max((1, 2), keepdims=True) - span) + 4) / 4
