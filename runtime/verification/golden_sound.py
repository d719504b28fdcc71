"""Make the sounds of golden inputs: a spoken sentence, and a rising tone.

`golden_sound.wav` contains SENTENCE in 16-bit PCM, as espeak-ng 1.52 speaks it with `-v en-gb -s 160`,
resampled to 16,000 samples a second. The file was made for tfm and has tfm's licence. The licence of
espeak-ng (GPL-3.0) covers the program, not the sounds that it makes.
"""

from __future__ import annotations

import wave
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...refimpl.config import Config
from ...refimpl.engine.sound import HOP, RATE, features, normalized

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

SENTENCE = "The animal didn't cross the street because it was too tired."
FILE = Path(__file__).with_name("golden_sound.wav")
LOW, HIGH, SECONDS = 200.0, 2000.0, 4  # of the tone, in Hz


def spoken() -> Float[Array, " N"]:
    """Return the spoken SENTENCE as samples from −1 to 1, with RATE samples a second."""
    with wave.open(str(FILE)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15


def tone() -> Float[Array, " N"]:
    """Return a tone as samples 0.3 sin φ(t), with RATE samples a second. The frequency of the tone rises
    evenly from LOW to HIGH.
    """
    at = np.arange(SECONDS * RATE) / RATE
    return 0.3 * np.sin(2 * np.pi * (LOW * at + (HIGH - LOW) / (2 * SECONDS) * at**2))


def golden_sounds(config: Config, count: int) -> Array:
    """Return the sentence and the tone as the input of a model: frames [2, T, C], or samples [2, N].

    The input has the model's fixed number of positions. If the model takes sounds of any length, the input
    has `count` positions.
    """
    assert config.stem is not None
    length, *bands = (
        config.stem.least(count) if isinstance(size, str) else size
        for size in config.stem.row(config.text_context)
    )
    if not bands:
        return np.stack([normalized(np.resize(sound, length)) for sound in (spoken(), tone())])
    whole = (np.pad(sound, (0, max(0, length * HOP - len(sound)))) for sound in (spoken(), tone()))
    return np.stack([features(sound, bands=bands[0])[:length] for sound in whole]).astype(np.float64)
