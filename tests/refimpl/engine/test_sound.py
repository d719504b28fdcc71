"""Models that hear: their engine takes frames, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny_models
from helpers.refused import refused
from tfm.refimpl.config import LM
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.engine.sound import HOP, RATE, Spectrogram, features
from tfm.refimpl.errors import ConfigError, LimitError
from tfm.runtime.tasks.base import expect_head

CONFIG = tiny_models.hearing()
FRAMES = np.random.default_rng(3).normal(size=(2, 10, 6))


@pytest.mark.parametrize(
    "frames",
    [
        np.array([[1, 2, 3]]),
        FRAMES[:, :8],
        FRAMES[:, :, :5],
        FRAMES.astype(np.int64),
        np.where(FRAMES.max() == FRAMES, np.nan, FRAMES),
    ],
    ids=["ids", "too few", "other bands", "whole numbers", "not a number"],
)
def test_anything_but_its_frames_is_refused(frames: np.ndarray):
    engine = NumpyEngine(CONFIG, tiny_models.weights(CONFIG))
    with refused(LimitError, "frames", frames.dtype):
        engine.start(len(frames), frames)


def test_each_sound_is_its_own():
    engine = NumpyEngine(CONFIG, tiny_models.weights(CONFIG, dtype=np.float64))
    tokens = np.array([[5, 7, 11], [13, 17, 19]])
    both, _ = engine.step(tokens, engine.start(2, FRAMES))
    for row in range(2):
        alone, _ = engine.step(tokens[[row]], engine.start(1, FRAMES[[row]]))
        assert np.allclose(alone[0], both[row], rtol=0, atol=1e-12)
    silent, _ = engine.step(tokens, engine.start(2, np.zeros_like(FRAMES)))
    assert np.abs(silent - both).max() > 1e-3


def test_tasks_of_texts_are_refused():
    with pytest.raises(ConfigError, match="transcribe"):
        expect_head(CONFIG, LM)


@pytest.mark.parametrize("count", [700, 5 * RATE + 33, 31 * RATE + 79, 62 * RATE])
def test_a_sound_in_blocks_has_the_frames_of_the_whole(count: int):
    """It is loudest near its end, which the first frames depend on."""
    rng = np.random.default_rng(count)
    sound = rng.normal(size=count) * np.linspace(0.001, 0.3, count) ** 2
    cuts = np.sort(rng.integers(0, count, 5))
    read = Spectrogram(lambda: np.split(sound, cuts), bands=80, size=3000)
    whole = features(sound, bands=80)
    assert (read.real, read.total) == (count // HOP, len(whole))
    for at in (0, 0, 17, 2000, len(whole) - 5):
        wanted = whole[at : at + 3000]
        found = read.window(at)
        assert np.abs(found[: len(wanted)] - wanted).max() < 1e-6
        assert not found[len(wanted) :].any()
