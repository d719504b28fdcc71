"""Golden sounds are what transformers makes of the file; words that a bundle writes wrongly are counted."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import transformers
from helpers import hearing_models, tiny_models
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.config import Config, Learned
from tfm.refimpl.decoding.speech import Limits
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.engine.sound import RATE
from tfm.runtime.tasks.model import Model
from tfm.runtime.text.subtitles import Segment
from tfm.runtime.verification.checks import words
from tfm.runtime.verification.checks.table import CHECKS
from tfm.runtime.verification.golden_sound import FILE, SENTENCE, golden_sounds, tone


@pytest.mark.parametrize("context", [5, 1500])
def test_a_model_of_frames_hears_the_sentence_and_the_tone(context: int):
    config = tiny_models.hearing()
    encoder = replace(config.encoder, positions=Learned(context))
    config = replace(config, encoder=encoder, encoder_context=context)
    samples, rate = soundfile.read(FILE)
    assert (rate, soundfile.info(FILE).subtype) == (RATE, "PCM_16")
    extractor = transformers.WhisperFeatureExtractor(feature_size=6)
    wanted = extractor([samples, tone()], sampling_rate=RATE, return_tensors="np").input_features
    # transformers computes in float32, and the bands beside a tone are nearly empty.
    assert np.allclose(golden_sounds(config, 12), wanted.swapaxes(1, 2)[:, : 2 * context], atol=1e-4)


def test_a_model_of_samples_hears_them_normalized():
    config = tiny_models.spelling()
    samples, _ = soundfile.read(FILE)
    count = config.stacks["encoder"].stem.least(4000)  # 1.5 s
    extractor = transformers.Wav2Vec2FeatureExtractor()
    for got, sound in zip(golden_sounds(config, 4000), (samples, tone()), strict=True):
        assert np.allclose(got, extractor(sound[:count], sampling_rate=RATE).input_values[0], atol=1e-5)


def test_the_tone_rises_evenly():
    """A sine crosses zero twice in each period: from 200 to 2,000 Hz, 225 Hz more in each half second."""
    crossings = [np.count_nonzero(np.diff(np.sign(part)) != 0) for part in np.split(tone(), 8)]
    assert np.allclose(crossings, [200 + 225 * (i + 0.5) for i in range(8)], atol=2)
    assert np.abs(tone()).max() == pytest.approx(0.3, abs=1e-3)


def test_wrong_words_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A drawn model, which has none of the words, and what others might write."""
    hearing_models.write(tmp_path, 1, multilingual=True, positions=184)  # the sentence is one window
    checkpoint = open_checkpoint(tmp_path)
    engine = NumpyEngine(checkpoint.config, checkpoint.params)
    monkeypatch.setattr(words, "all_backends", lambda context: {"": (None, None), "fast": (engine, None)})

    def row() -> Any:
        (found,) = words.check_words(SimpleNamespace(bundle=checkpoint))  # pyright: ignore[reportArgumentType]
        assert (found.of, found.ok, found.unit) == (11, None, "words")
        return found

    asked: dict[str, Any] = {"language": "en", "temperatures": [0], "limits": Limits()}
    said = " ".join(one.text for one in Model(engine, checkpoint).transcribe(FILE, **asked))
    assert said
    assert row().figure == max(11, len(said.split()))
    for text, wrong in (
        (f" {SENTENCE}", 0),
        (" the ANIMAL didn't cross the street, because it was too tired", 0),
        (" The animals didn't cross street because it was too very tired.", 3),
        ("", 11),
    ):
        told = Segment(0, 3, text, [], None, 0.0, 1.0, 0.0)
        monkeypatch.setattr(Model, "transcribe", lambda *_, told=told, **__: iter([told]))
        assert row().figure == wrong


def test_changes_are_the_fewest():
    """Against all ways to line two short texts up: pairs in ascending places, the others changed or added."""

    def fewest(before: str, after: str) -> int:
        shared = max(
            _saved(before, after, some, others)
            for count in range(min(len(before), len(after)) + 1)
            for some in itertools.combinations(range(len(before)), count)
            for others in itertools.combinations(range(len(after)), count)
        )
        return len(before) + len(after) - shared

    rng = np.random.default_rng(0)
    for _ in range(30):
        before, after = ("".join(rng.choice([*"abc"], rng.integers(0, 5))) for _ in range(2))
        assert words.changes([*before], [*after]) == fewest(before, after)


def _saved(before: str, after: str, some: tuple[int, ...], others: tuple[int, ...]) -> int:
    """A pair that is equal saves a removal and an addition, another pair one of the two."""
    return sum(2 if before[i] == after[j] else 1 for i, j in zip(some, others, strict=True))


@pytest.mark.parametrize(
    ("config", "hears"),
    [(tiny_models.hearing(), True), (tiny_models.spelling(), True), (tiny_models.llama(), False)],
)
def test_only_bundles_of_sound_are_asked(config: Config, hears: bool):
    assert CHECKS["words"].applies(SimpleNamespace(config=config)) == hears  # pyright: ignore[reportArgumentType]
