"""Laws of one-dimensional convolutions."""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law


@law("conv1d")
def each_output_sums_its_vectors(conv1d: Subject, draw: Draw) -> None:
    """Each output of `conv1d` is a sum over its vectors. The law computes the sum vector by vector and
    group by group, with one product for each matrix.
    """
    call = draw(conv1d.calls())
    x, kernel, groups = call["x"].astype(np.float64), call["kernel"].astype(np.float64), call["groups"]
    channels, size, length = kernel.shape
    count = (x.shape[1] - length) // call["stride"] + 1
    y = np.zeros((len(x), count, channels)) + (0 if call["bias"] is None else call["bias"])
    own = channels // groups
    for t in range(count):
        for j in range(length):
            for g in range(groups):
                read = x[:, t * call["stride"] + j, g * size : (g + 1) * size]
                y[:, t, g * own : (g + 1) * own] += read @ kernel[g * own : (g + 1) * own, :, j].T
    conv1d.near(conv1d(call), y, call)


@law("time_norm")
def each_channel_is_normalized_over_time(time_norm: Subject, draw: Draw) -> None:
    """`time_norm` normalizes each channel of each sound by itself."""
    call = draw(time_norm.calls())
    x = call["x"].astype(np.float64)
    y = np.zeros_like(x)
    for row, channel in np.ndindex(len(x), x.shape[2]):
        over = x[row, :, channel]
        y[row, :, channel] = (over - over.mean()) / np.sqrt(over.var() + call["eps"])
    time_norm.near(time_norm(call), y * call["weight"] + call["bias"], call)


@law("sound_norm")
def all_numbers_of_a_sound_are_normalized_together(sound_norm: Subject, draw: Draw) -> None:
    """`sound_norm` normalizes each sound by itself, over all its times and channels."""
    call = draw(sound_norm.calls())
    x = call["x"].astype(np.float64)
    y = np.stack([(row - row.mean()) / np.sqrt(row.var() + call["eps"]) for row in x])
    sound_norm.near(sound_norm(call), y * call["weight"] + call["bias"], call)
