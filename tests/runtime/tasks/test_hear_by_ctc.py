"""What a model with a CTC head hears is what transformers' pipeline says, of drawn models and sounds."""

from __future__ import annotations

import functools
import json
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from helpers import hearing_models
from helpers.hearing_models import STRIDE, sound
from helpers.refused import refused
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.formats.model_directory import LIMITS
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.decoding.ctc import CTCTokens
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.engine.sound import HOP, RATE, normalized, windows
from tfm.refimpl.errors import CheckpointError, LimitError
from tfm.refimpl.params.tree import map_leaves
from tfm.runtime import sound_files
from tfm.runtime.tasks import hear_by_ctc, transcribe
from tfm.runtime.tasks.model import Model, load

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
@pytest.mark.parametrize(("name", "seed"), [("wav2vec2", 3), ("wav2vec2", 14), ("hubert", 16)])
def test_words_and_times_are_transformers(name: str, seed: int, frames: int):
    """In one window, at its edge, and in several."""
    pipeline, model = made(seed, name)
    heard = sound(seed, frames)
    theirs = pipeline(heard.astype(np.float32), return_timestamps="word")
    segments = list(model.transcribe(heard, words=True))
    words = [word for segment in segments for word in segment.words]
    assert [word.text.strip() for word in words] == [
        one["text"] for one in theirs["chunks"] if one["text"].strip()
    ]
    ours = [time for word in words for time in (word.start, word.end)]
    times = [time for one in theirs["chunks"] if one["text"].strip() for time in one["timestamp"]]
    np.testing.assert_allclose(ours, times, atol=1e-9)
    text = "".join(segment.text for segment in segments)
    assert " ".join(text.split()) == " ".join(theirs["text"].split())


def text(segments: Any) -> str:
    return "".join(segment.text for segment in segments)


def test_segments_are_the_same_whichever_blocks_come(monkeypatch: pytest.MonkeyPatch):
    """A sound in one window has the words of several; segments end at pauses, and when they are long."""
    _, model = made(14)
    heard = sound(14, 200)
    segments = list(model.transcribe(heard, words=True))
    assert len(segments) > 1
    assert all(later.start - one.end >= 0.5 for one, later in pairwise(segments))
    for segment in segments:
        words = segment.words
        assert (segment.start, segment.end) == (words[0].start, words[-1].end)
        assert segment.text == "".join(word.text for word in words)
        assert (segment.seek, segment.language, segment.no_speech) == (
            round(segment.start * RATE) // HOP,
            None,
            0,
        )
        assert -3 < segment.logprob < 0 < segment.compression
    monkeypatch.setattr(hear_by_ctc, "LONGEST", 0.1)
    short = list(model.transcribe(heard, words=True))
    assert max(one.end - one.start for one in short) <= 0.1 + STRIDE / RATE
    assert text(short).replace(" ", "") == text(segments).replace(" ", "")
    monkeypatch.setattr("tfm.runtime.sound_files.BLOCK", 1000)
    assert list(model.transcribe(heard, words=True)) == short


def test_a_file_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its header says how long it is; progress is in hundredths of a second."""
    heard, steps = sound(14, 200), []
    soundfile.write(tmp_path / "a.wav", heard, RATE, subtype="DOUBLE")
    resampled, read = sound_files._resampled, []
    monkeypatch.setattr(sound_files, "_resampled", lambda path: (read.append(path), resampled(path))[1])
    for model in (made(14)[1], hearing_models.moonshine()):
        wanted = list(model.transcribe(heard))
        steps.clear()
        got = list(model.transcribe(tmp_path / "a.wav", progress=lambda *step: steps.append(step)))
        assert got == wanted
        assert {total for _, _, total in steps} == {len(heard) // HOP}
    assert len(read) == 2


def test_the_files_say_how_a_text_is_spelled():
    """Lower case, without spaces before punctuation, and what a sound is to be."""
    _, model = made(16)
    heard, ctc, generation = sound(16, 200), model.generation.ctc, model.generation
    assert ctc is not None
    plain = text(model.transcribe(heard))
    for tokens, expected in (
        (replace(ctc, lower=True), plain.lower()),
        (replace(ctc, delimiter=None), " " + plain.strip().replace(" ", "|")),
        (ctc, plain),
    ):
        model.generation = replace(generation, ctc=tokens)
        said = text(model.transcribe(heard))
        assert said.replace(" |", "|").rstrip("|") == expected
    assert hear_by_ctc.cleaned(" IT 's , SO") == " IT's, SO"


def test_a_sound_is_normalized_where_the_files_say_so(monkeypatch: pytest.MonkeyPatch):
    _, model = made(3)
    given: list[np.ndarray] = []
    predict = model.engine.predict
    monkeypatch.setattr(model.engine, "predict", lambda ids: given.append(ids) or predict(ids))
    heard, ctc = sound(3, 20), model.generation.ctc
    list(model.transcribe(heard))
    monkeypatch.setattr(model, "generation", replace(model.generation, ctc=replace(ctc, normalized=False)))
    list(model.transcribe(heard))
    np.testing.assert_array_equal(given, [[normalized(heard).astype(np.float32)], [heard.astype(np.float32)]])


def test_what_cannot_be_heard_is_nothing():
    _, model = made(3)
    assert list(model.transcribe(np.zeros(100))) == []
    assert text(model.transcribe(np.zeros(40_000))) == text(model.transcribe(np.full(40_000, 0.5)))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("language", "en"), ("task", "translate"), ("condition", True), ("beams", 2), ("seed", 1),
        ("temperatures", (0.0,)), ("limits", transcribe.PAPER._replace(compression=1.0)),
    ],
)  # fmt: skip
def test_options_of_models_that_write_are_refused(option: str, value: Any):
    _, model = made(3)
    with refused(LimitError, option, "CTC head"):
        model.transcribe(np.zeros(1000), **{option: value})
    assert list(model.transcribe(np.zeros(100), task="transcribe", beams=1)) == []


def test_windows_overlap_and_each_sample_counts_once():
    samples = np.arange(107.0)
    for size, beside in ((20, 3), (107, 5), (200, 5), (10, 4)):
        parts = list(windows((samples[i : i + 13] for i in range(0, 107, 13)), size, beside))
        counted = np.concatenate([one.samples[one.before : one.end] for one in parts])
        np.testing.assert_array_equal(counted, samples)
        assert [one.samples[0] for one in parts] == [one.begin for one in parts]
        assert [one.last for one in parts] == [False] * (len(parts) - 1) + [True]
        assert max(len(one.samples) for one in parts) <= size


@pytest.mark.parametrize("context", [3, 9, 40])
def test_each_position_counts_once_in_windows_of_any_context(context: int, monkeypatch: pytest.MonkeyPatch):
    """Of a model that reads its letters off the samples, a letter at each position."""
    _, model = made(3)
    assert model.generation.ctc is not None
    said = np.random.default_rng(0).integers(3, 9, 100)
    said[1:][said[1:] == said[:-1]] = 0  # a blank, as the same letter twice is one
    monkeypatch.setattr(
        model, "generation", replace(model.generation, ctc=replace(model.generation.ctc, normalized=False))
    )
    monkeypatch.setattr(model.engine, "config", replace(model.config, context=context))
    stem = model.config.stem
    assert stem is not None

    def predict(sound: np.ndarray) -> np.ndarray:
        return np.eye(9)[sound[:, : STRIDE * stem.positions(sound.shape[1]) : STRIDE].astype(int)] * 50

    monkeypatch.setattr(model.engine, "predict", predict)
    heard = np.repeat(said.astype(float), STRIDE)
    found = [token for one in model.transcribe(heard) for token in one.tokens]
    assert found == [token for token in said[: stem.positions(len(heard))] if token]


def test_a_context_without_room_beside_is_refused(monkeypatch: pytest.MonkeyPatch):
    _, model = made(3)
    monkeypatch.setattr(model.engine, "config", replace(model.config, context=2))
    with refused(LimitError, "context", 3, 2):
        list(model.transcribe(np.zeros(1000)))


def test_normalized_is_transformers():
    samples = sound(5, 30)
    (expected,) = transformers.Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm([samples], None)
    np.testing.assert_allclose(normalized(samples), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("vocab.json", {"en": {"A": 1}}, ("vocab.json", "one language")),
        ("vocab.json", {"A": 1}, ("pad_token", "<pad>")),
        ("tokenizer_config.json", {"target_lang": "en"}, ("target_lang", "en")),
        ("tokenizer_config.json", {"replace_word_delimiter_char": "_"}, ("replace_word_delimiter_char", "_")),
        ("tokenizer_config.json", {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"}, ("tokenizer_class",)),
        ("tokenizer_config.json", {"do_lower_case": "yes"}, ("do_lower_case", "yes")),
        ("tokenizer_config.json", {"pad_token": 3}, ("pad_token", 3)),
        ("added_tokens.json", {"<s>": "x"}, ("added_tokens.json",)),
        ("vocab.json", {"<pad>": 9}, ("vocab.json", "<pad>", 9)),
        ("vocab.json", {"<pad>": 0, "|": 9}, ("vocab.json", "|", 9)),
        (
            "processor_config.json",
            {"feature_extractor": None},
            ("processor_config.json", "feature_extractor"),
        ),
        ("processor_config.json", {"feature_extractor": [1]}, ("processor_config.json", "feature_extractor")),
        ("preprocessor_config.json", {"sampling_rate": 8000}, ("sampling_rate", 8000)),
        ("preprocessor_config.json", {"do_normalize": 1}, ("do_normalize", 1)),
    ],
)
def test_files_that_say_otherwise_are_refused(tmp_path: Path, file: str, change: dict[str, Any], words: Any):
    hearing_models.write_ctc(tmp_path, 1)
    (tmp_path / file).write_text(json.dumps(change))
    with refused(CheckpointError, *words):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", [name for name in LIMITS if "processor" in name])
def test_ctc_side_files_are_bounded(tmp_path: Path, name: str):
    hearing_models.write_ctc(tmp_path, 1)
    with open(tmp_path / name, "wb") as file:
        file.truncate(LIMITS[name] + 1)
    with refused(CheckpointError, name, LIMITS[name]):
        open_checkpoint(tmp_path)


def test_without_a_pad_token_no_other_is_the_blank(tmp_path: Path):
    hearing_models.write_ctc(tmp_path, 1)
    (tmp_path / "vocab.json").write_text('{"": 0, "A": 1}')
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": null}')
    with refused(CheckpointError, "pad_token", None):
        open_checkpoint(tmp_path)


def test_what_the_files_say_is_read(tmp_path: Path):
    hearing_models.write_ctc(tmp_path, 1)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.generation.ctc == CTCTokens(0, 2)
    assert {"vocab.json", "tokenizer_config.json", "processor_config.json"} <= checkpoint.files.keys()
    stated = {"do_lower_case": True, "clean_up_tokenization_spaces": True, "pad_token": {"content": "B"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated | {"word_delimiter_token": "A"}))
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    expected = CTCTokens(4, 3, normalized=False, lower=True, cleaned=True)
    assert open_checkpoint(tmp_path).generation.ctc == expected
    (tmp_path / "vocab.json").unlink()
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.tokenizer, checkpoint.generation.ctc) == (None, None)
    model = Model(NumpyEngine(checkpoint.config, checkpoint.params), checkpoint)
    with refused(CheckpointError, "vocab.json"):
        list(model.transcribe(np.zeros(1000)))


def test_a_bundle_hears_what_the_specification_hears(tmp_path: Path):
    """On ONNX Runtime, in several windows of other lengths than the traced one."""
    hearing_models.write_ctc(tmp_path / "source", 3)
    checkpoint = open_checkpoint(tmp_path / "source")
    export(checkpoint, tmp_path / "bundle", quant="fp32", verify=False)
    specified = Model(NumpyEngine(checkpoint.config, checkpoint.params), checkpoint)
    heard = sound(3, 2100)
    segments = list(load(str(tmp_path / "bundle")).transcribe(heard))
    assert [one.tokens for one in segments] == [one.tokens for one in specified.transcribe(heard)]
    assert len(segments) > 1
