"""What a Moonshine writes is what transformers' `generate` writes, of drawn models and sounds."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers import hearing_models
from helpers.float64 import Float64
from helpers.hearing_models import sound
from helpers.refused import refused
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.engine.sound import HOP, RATE
from tfm.refimpl.errors import CheckpointError, LimitError
from tfm.refimpl.params.tree import map_leaves
from tfm.runtime.tasks import transcribe
from tfm.runtime.tasks.model import Model, load
from tfm.runtime.tasks.utterances import CHUNK, loud_spans


@functools.cache
def made(seed: int, **rules: Any) -> tuple[Callable[[np.ndarray], tuple[list[int], str]], Model]:
    """transformers' tokens and text of a sound, and our model of the same files, in float64."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = hearing_models.write_moonshine(Path(folder), seed, **rules)
        processor = transformers.AutoProcessor.from_pretrained(folder)
        checkpoint = open_checkpoint(folder)
        params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)

    def written(heard: np.ndarray) -> tuple[list[int], str]:
        """As the model's card says: with a limit that depends on the sound's length."""
        given = processor(heard, return_tensors="pt", sampling_rate=RATE)
        most = int((given.attention_mask.sum(-1) * 6.5 / RATE).max().item())
        with Float64(), torch.no_grad():
            ids = theirs.generate(
                given.input_values.double(), attention_mask=given.attention_mask, max_length=max(2, most)
            )
        text = processor.batch_decode(ids, skip_special_tokens=True)[0]
        return [id for id in ids[0].tolist() if id not in (1, 2)], text

    return written, Model(NumpyEngine(checkpoint.config, params), checkpoint)


@pytest.mark.parametrize("seed", range(5))
def test_texts_are_transformers(seed: int):
    """Of a short sound and of longer ones, whose texts end by themselves or by their length."""
    written, model = made(seed)
    for frames in (6, 90 + 7 * seed, 250):
        heard = sound(seed, frames)
        tokens, text = written(heard)
        segments = list(model.transcribe(heard))
        assert [one.tokens for one in segments] == ([tokens] if text else [])
        assert "".join(one.text for one in segments) == (f" {text}" if text else "")


def test_beams_are_transformers():
    """As the model's files ask for them, or the caller."""
    written, model = made(1, num_beams=3)
    heard = sound(1, 250)
    tokens, _ = written(heard)
    (asked,) = made(1)[1].transcribe(heard, beams=3)
    assert [one.tokens for one in model.transcribe(heard)] == [asked.tokens] == [tokens]
    assert [one.tokens for one in model.transcribe(heard, beams=1)] != [tokens]


def test_spans_are_cut_where_it_is_quiet(monkeypatch: pytest.MonkeyPatch):
    """A span is heard by itself; all samples are in one, whichever blocks they come in."""
    _, model = made(1)
    heard, quiet, longest = sound(3, 300), 40 * CHUNK, 50 * CHUNK / RATE
    heard[quiet : quiet + CHUNK] = 0
    spans = list(loud_spans([heard[:5000], heard[5000:]], longest=longest))
    assert spans[0][0] == 0
    assert len(spans[0][1]) == quiet + CHUNK
    np.testing.assert_array_equal(np.concatenate([samples for _, samples in spans]), heard)
    assert max(len(samples) for _, samples in spans) <= 50 * CHUNK
    monkeypatch.setattr(transcribe, "loud_spans", functools.partial(loud_spans, longest=longest))
    steps: list[tuple[int, int]] = []
    segments = list(model.transcribe(heard, progress=lambda _, done, total: steps.append((done, total))))
    alone = [list(model.transcribe(samples)) for _, samples in spans]
    assert [one.tokens for one in segments] == [one.tokens for some in alone for one in some]
    assert [(one.start, one.end) for one in segments] == [
        (at / RATE, (at + len(samples)) / RATE)
        for (at, samples), some in zip(spans, alone, strict=True)
        if some
    ]
    assert len(segments) > 1
    assert all(-6 < one.logprob < 0 < one.compression for one in segments)
    assert steps == [*((at // HOP, 300) for at, _ in spans), (300, 300)]
    monkeypatch.setattr(transcribe, "LONGEST", longest)
    monkeypatch.setattr(transcribe, "Voice", lambda _: lambda chunk: float(np.abs(chunk).max() + 0.4))
    spoken = list(model.transcribe(heard, vad=True))
    assert spoken[0].end == (quiet + CHUNK) / RATE
    assert max(one.end - one.start for one in spoken) <= longest


def test_a_sound_that_is_too_short_has_no_text():
    """A vector is made of 895 samples."""
    written, model = made(1)
    heard = sound(1, 6)
    assert list(model.transcribe(heard[:894])) == []
    assert [one.tokens for one in model.transcribe(heard[:895])] == [written(heard[:895])[0]] != [[]]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("language", "en"), ("task", "translate"), ("condition", True), ("words", True), ("seed", 1),
        ("batch", 2), ("best_of", 2), ("temperatures", (0.0,)),
        ("limits", transcribe.PAPER._replace(compression=1.0)),
    ],
)  # fmt: skip
def test_options_of_models_that_write_times_are_refused(option: str, value: Any):
    with refused(LimitError, option, "writes times"):
        made(1)[1].transcribe(np.zeros(1000), **{option: value})


def test_samples_are_read_as_they_are(tmp_path: Path):
    hearing_models.write_moonshine(tmp_path, 1)
    form = tmp_path / "preprocessor_config.json"
    for key, value in (("do_normalize", True), ("sampling_rate", 8000)):
        form.write_text(json.dumps({key: value}))
        with refused(CheckpointError, key):
            open_checkpoint(tmp_path)
    form.unlink()
    open_checkpoint(tmp_path)


def test_a_bundle_writes_what_the_specification_writes(tmp_path: Path):
    """On ONNX Runtime, from the bundle's files alone, of sounds of other lengths than the traced one."""
    hearing_models.write_moonshine(tmp_path / "source", 2)
    checkpoint = open_checkpoint(tmp_path / "source")
    export(checkpoint, tmp_path / "bundle", quant="fp32", verify=False)
    specified = Model(NumpyEngine(checkpoint.config, checkpoint.params), checkpoint)
    bundle = load(str(tmp_path / "bundle"))
    for frames in (60, 250):
        heard = sound(2, frames)
        segments = list(bundle.transcribe(heard))
        assert [one.tokens for one in segments] == [one.tokens for one in specified.transcribe(heard)] != []
