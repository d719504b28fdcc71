"""What a model with a CTC head hears is what transformers' pipeline says, of drawn models and sounds."""

from __future__ import annotations

import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers import hearing_models
from helpers.hearing_models import STRIDE, sound
from helpers.refused import refused
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.config import LM
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.engine.sound import HOP, RATE, normalized, windows
from tfm.refimpl.errors import CheckpointError, LimitError
from tfm.refimpl.params.tree import map_leaves
from tfm.runtime.tasks.model import Model

CONTEXT, BESIDE = 40, 4  # positions of a window, and those that are left out at its ends


@functools.cache
def made(seed: int, name: str = "wav2vec2", **settings: Any) -> tuple[Any, Model]:
    """transformers' pipeline, with windows, and ours of the same files, in float64."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = hearing_models.write_ctc(Path(folder), seed, name, **settings)
        processor = transformers.AutoProcessor.from_pretrained(folder)
        checkpoint = open_checkpoint(folder)
        params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    # The weight that is read is the float32 one.
    convolution = theirs.base_model.encoder.pos_conv_embed.conv
    torch.nn.utils.parametrize.remove_parametrizations(convolution, "weight")
    pipeline = transformers.pipeline(
        "automatic-speech-recognition", theirs, tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor, chunk_length_s=CONTEXT * STRIDE / RATE,
        stride_length_s=BESIDE * STRIDE / RATE, dtype=torch.float32, device="cpu",
    )  # fmt: skip
    config = replace(checkpoint.config, context=CONTEXT)
    return pipeline, Model(NumpyEngine(config, params), checkpoint)


@pytest.mark.parametrize("frames", [4, 40, 81, 200])
@pytest.mark.parametrize(("name", "seed"), [("wav2vec2", 1), ("wav2vec2", 2), ("hubert", 3)])
def test_words_and_times_are_transformers(name: str, seed: int, frames: int):
    """In one window, at its edge, and in several."""
    pipeline, model = made(seed, name)
    heard = sound(seed, frames)
    theirs = pipeline(heard.astype(np.float32), return_timestamps="word")
    segments = list(model.transcribe(heard, words=True))
    words = [word for segment in segments for word in segment.words]
    assert [word.text.strip() for word in words] == [one["text"] for one in theirs["chunks"] if one["text"].strip()]
    times = [one["timestamp"] for one in theirs["chunks"] if one["text"].strip()]
    np.testing.assert_allclose([[word.start, word.end] for word in words], np.reshape(times, (-1, 2)), atol=1e-9)
    text = "".join(segment.text for segment in segments)
    assert " ".join(text.split()) == " ".join(theirs["text"].split())
