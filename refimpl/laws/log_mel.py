"""Laws of spectrograms and of the stem that reads spectrograms."""

from __future__ import annotations

import numpy as np

from ..ops.activation import gelu
from . import Draw, Subject, law


@law("hann_window")
def a_window_and_half_of_it_later_are_one(hann_window: Subject, draw: Draw) -> None:
    """Two Hann windows that overlap by half sum to one. If the number of samples is odd, the sum of the
    window is half the number of samples."""
    call = draw(hann_window.calls())
    count = len(call["samples"])
    call = call.but(samples=np.arange(count).astype(call["samples"].dtype))
    window = hann_window(call)
    if count % 2 == 0:
        hann_window.near(window[: count // 2] + window[count // 2 :], np.ones(count // 2), call)
    elif count > 1:
        hann_window.near(window.sum(keepdims=True), np.array([count / 2]), call)
    hann_window.near(window[:1], np.zeros(1), call)


@law("power_spectrum")
def the_powers_are_those_of_the_samples(power_spectrum: Subject, draw: Draw) -> None:
    """The sum of the powers of all frequencies equals the sum of the powers of the window's samples, times
    their number (Parseval).

    Frequencies between the first and the last frequency count twice.
    """
    call = draw(power_spectrum.calls())
    sound, window, hop = call["sound"].astype(np.float64), call["window"].astype(np.float64), call["hop"]
    half = len(window) // 2
    period = np.concatenate([sound, sound[:, -2:0:-1]], 1)  # of a sound that is mirrored again and again
    powers, twice = power_spectrum(call), np.full(half + 1, 2.0)
    twice[[0, -1]] = 1
    starts = np.arange(powers.shape[1]) * hop - half
    samples = period[:, (starts[:, None] + np.arange(2 * half)) % period.shape[1]] * window
    power_spectrum.near(powers @ twice, (samples**2).sum(-1) * len(window), call)


@law("power_spectrum")
def a_sound_that_begins_a_hop_later_has_its_frames_later(power_spectrum: Subject, draw: Draw) -> None:
    """If a sound begins one hop later, its frames move by one, unless they see an end of the sound.
    Silence has no power.
    """
    call = draw(power_spectrum.calls(T=9, A=2, J=2))
    sound, hop = call["sound"], call["hop"]
    silent = np.zeros_like(sound[:, :hop])
    later = call.but(sound=np.concatenate([silent, sound[:, :-hop]], 1))
    inner = slice(1, 7)
    power_spectrum.near(power_spectrum(later)[:, 2:8], power_spectrum(call)[:, inner], call, later)
    still = call.but(sound=np.zeros_like(sound))
    power_spectrum.near(power_spectrum(still), np.zeros_like(power_spectrum(call)), still)


@law("mel_frequencies")
def the_scale_is_linear_then_exponential(mel_frequencies: Subject, draw: Draw) -> None:
    """The mel scale is linear up to 1,000 Hz, which is 15 mel. From there, each further 27 mel multiply
    the frequency by 6.4."""
    call = draw(mel_frequencies.calls())
    below = -np.abs(call["mel"])
    lower, half = call.but(mel=below), call.but(mel=below / 2)
    mel_frequencies.near(mel_frequencies(half) * 2, mel_frequencies(lower), lower, half)
    upper = call.but(mel=15 - below)
    mel_frequencies.near(mel_frequencies(upper), 1000 * 6.4 ** (-below.astype(np.float64) / 27), upper)


@law("mel_filters")
def bands_are_triangles_of_one_area(mel_filters: Subject, draw: Draw) -> None:
    """A mel band is 0 at its edges and outside. At its middle it is 2 / width, and halfway up it is half
    of that.
    """
    call = draw(mel_filters.calls())
    edges = np.cumsum(0.5 + np.abs(call["edges"])).astype(call["edges"].dtype)
    width = edges[2:] - edges[:-2]
    band = np.arange(len(width))
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    places = ((middle, 1), (low, 0), (high, 0), ((low + middle) / 2, 0.5), (low - 1, 0), (high + 1, 0))
    for at, share in places:
        own = call.but(frequencies=at, edges=edges)
        mel_filters.near(mel_filters(own)[band, band], share * 2 / width, own)


@law("log_mel")
def a_louder_sound_is_brighter_everywhere(log_mel: Subject, draw: Draw) -> None:
    """Ten times the power adds a quarter to each value of `log_mel`. Silence, and any value more than
    `span` below the loudest, is raised to the lower bound.
    """
    call = draw(log_mel.calls())
    power, filters = np.abs(call["power"]) + 1, np.abs(call["filters"]) + 0.5
    heard = call.but(power=power, filters=filters)
    louder = heard.but(power=power * 10)
    log_mel.near(log_mel(louder), log_mel(heard) + 0.25, heard, louder)
    one = heard.but(power=np.where(np.arange(power.shape[1])[:, None] == 0, power, 0))
    frames = log_mel(one)
    floor = np.maximum(frames.max((1, 2), keepdims=True) - call["span"] / 4, np.log10(call["least"]) / 4 + 1)
    log_mel.near(frames[:, 1:], np.broadcast_to(floor, frames[:, 1:].shape), one)


@law("conv_stem")
def each_vector_sums_its_frames(conv_stem: Subject, draw: Draw) -> None:
    """Each vector of `conv_stem` is a sum over its frames. The law computes the sum frame by frame, with
    one product for each matrix.
    """
    call = draw(conv_stem.calls(conv1=True, conv2=True))
    x = call["frames"].astype(np.float64)
    for name, stride in (("conv1", 1), ("conv2", 2)):
        matrices = np.split(call[name].astype(np.float64), 3)
        y = np.zeros((len(x), x.shape[1] // stride, matrices[0].shape[1])) + call[f"{name}_bias"]
        for t in range(y.shape[1]):
            for j, matrix in enumerate(matrices):
                if 0 <= (at := stride * t - 1 + j) < x.shape[1]:
                    y[:, t] += x[:, at] @ matrix
        x = gelu(y)
    conv_stem.near(conv_stem(call), x, call)


@law("conv_stem")
def a_frame_reaches_two_vectors_at_most(conv_stem: Subject, draw: Draw) -> None:
    """Vector t of `conv_stem` depends on only five frames, from 2t − 2 to 2t + 2. So the first frame
    reaches only two vectors.
    """
    call = draw(conv_stem.calls(T=6))
    frames, y = call["frames"], conv_stem(call)
    changed = np.concatenate([frames[:, :1] + 1, frames[:, 1:]], 1)
    other = call.but(frames=changed)
    conv_stem.near(conv_stem(other)[:, 2:], y[:, 2:], call, other)
