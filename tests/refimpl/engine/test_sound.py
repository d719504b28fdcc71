"""Models that hear: their engine takes frames, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny_models
from helpers.refused import refused
from tfm.refimpl.config import LM
from tfm.refimpl.engine.numpy_engine import NumpyEngine
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
    with pytest.raises(ConfigError, match="hears"):
        expect_head(CONFIG, LM)
