"""`transcribe` writes what transformers' `generate` writes, times included, of drawn models and sounds."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import transformers
from helpers import hearing_models, task_models, tiny_models
from helpers.float64 import Float64
from helpers.hearing_models import BANDS, END, SIZE, sound
from helpers.refused import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.export.bundle_writer import export
from tfm.export.torch_engine import TorchEngine
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.engine.sound import HOP, RATE, features
from tfm.refimpl.errors import CheckpointError, ConfigError, LimitError
from tfm.refimpl.params.tree import map_leaves
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.progress import silent
from tfm.runtime.tasks import transcribe
from tfm.runtime.tasks.model import Model, load
from tfm.runtime.tasks.transcribe import Limits, Segment
from tfm.runtime.tasks.utterances import utterances

some = settings(max_examples=(settings.default.max_examples or 0) // 4)
seeds = st.integers(0, 2**32 - 1)


@cache
def made(seed: int, multilingual: bool) -> tuple[Any, Model]:
    """transformers' model and ours from the same files, both in float64."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = hearing_models.write(Path(folder), seed, multilingual=multilingual)
        checkpoint = open_checkpoint(folder)
        params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    return theirs.double(), Model(NumpyEngine(checkpoint.config, params), checkpoint)


def expected(theirs: Any, heard: np.ndarray, **asked: Any) -> list[dict[str, Any]]:
    """The segments of transformers' `generate`, of the frames that its extractor makes."""
    frames = torch.from_numpy(heard.astype(np.float64).T[None])
    torch.set_default_dtype(torch.float64)
    try:
        with Float64(), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "std")  # of the words in one frame
            found = theirs.generate(
                frames, return_timestamps=True, return_segments=True, return_dict_in_generate=True,
                **{"temperature": 0.0, **asked},
            )  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float32)
    return found["segments"][0]


def frames_of(samples: np.ndarray) -> np.ndarray:
    """`features`, which are transformers', of the sound alone, and of a window at least."""
    whole = np.pad(samples, (0, max(0, SIZE * HOP - len(samples))))
    return features(whole, bands=BANDS)[: len(whole) // HOP]


@some
@given(
    seeds, st.integers(0, 2), st.integers(10, 4 * SIZE), st.booleans(), st.booleans(), st.booleans(),
    st.sampled_from([1, 3]), st.tuples(st.floats(0.3, 1.3), st.floats(-3, 0), st.floats(0, 0.05)) | st.none(),
)  # fmt: skip
def test_segments_and_words_are_transformers(
    seed: int, number: int, length: int, multilingual: bool, condition: bool, stated: bool, beams: int,
    drawn: tuple[float, ...] | None,
):  # fmt: skip
    """Each token is a word of its own; files that state no heads mean those of the upper layer.

    Where one frame is left, nobody heard anything: theirs are 0.02 s before it.
    """
    theirs, ours = made(number, multilingual)
    samples, speech = sound(seed, length), ours.generation.speech
    assert speech is not None
    heads = speech.alignment_heads if stated else tuple((1, head) for head in range(3))
    theirs.generation_config.alignment_heads = [*map(list, heads)]
    frames = frames_of(samples)
    heard = torch.arange(len(frames))[None] < len(samples) // HOP
    asked: dict[str, Any] = {"condition_on_prev_tokens": condition, "return_token_timestamps": True}
    asked["num_beams"] = beams
    limits = Limits()
    if drawn is not None:
        limits = Limits(*drawn)
        names = ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold")
        asked |= dict(zip(names, drawn, strict=True))
    if multilingual:
        asked["task"] = "transcribe"
    wanted = expected(theirs, frames, attention_mask=heard.long(), **asked)
    speech = speech if stated else replace(speech, alignment_heads=())
    generation, words = replace(ours.generation, speech=speech), {None, "en", "de"}
    with (
        mock.patch.object(ours, "generation", generation),
        mock.patch.object(transcribe, "WITHOUT_SPACES", words),
    ):
        asked = {"condition": condition, "limits": limits, "temperatures": [0], "words": True, "beams": beams}
        got = list(ours.transcribe(samples, **asked))
    same(got, wanted, len(samples))
    for said, of in zip(got, wanted, strict=False):
        if len(samples) // HOP - said.seek < 2:
            continue
        times = of["token_timestamps"].tolist()
        places = [i for i, token in enumerate(said.tokens) if token < END]
        told = [(one.start, one.end) for one in said.words]
        assert np.allclose([start for start, _ in told], [times[i] for i in places])
        ends = [(end, times[i + 1]) for (_, end), i in zip(told, places, strict=True) if i + 1 < len(times)]
        assert np.allclose(*zip(*ends, strict=True)) if ends else True


@pytest.mark.parametrize("words", [{None}, set()])
def test_where_the_decoder_looked_is_told_by_word(words: set[str | None], monkeypatch: pytest.MonkeyPatch):
    """The mean over heads of the weights that times come from; a word is a token, or a whole segment."""
    _, ours = made(1, False)
    begins, weights, told = transcribe.token_begins, [], []
    monkeypatch.setattr(transcribe, "token_begins", lambda of: (weights.append(of), begins(of))[1])
    monkeypatch.setattr(transcribe, "WITHOUT_SPACES", words)
    asked: dict[str, Any] = {"limits": Limits(), "temperatures": [0], "words": True}
    said = [*ours.transcribe(sound(1, 5 * SIZE), **asked, on_attention=lambda *look: told.append(look))]
    heard = [one for one in said if one.words]
    assert [look[0] for look in told] == [one.words for one in heard]
    windows = sorted({one.seek for one in said})
    assert len(windows) == len(weights) > 1
    assert len(said) > len(windows)
    for one, (_, rows, begin) in zip(heard, told, strict=True):
        before = [token for of in said if of.seek == one.seek and of.start < one.start for token in of.tokens]
        seen = weights[windows.index(one.seek)].mean(0)
        places = [len(before) + i for i, token in enumerate(one.tokens) if token < END]
        wanted = seen[[min(place, len(seen) - 1) for place in places]]
        assert np.allclose(rows, wanted if words else wanted.mean(0, keepdims=True), atol=1e-6)
        assert begin == one.seek * HOP / RATE


def same(got: list[Segment], wanted: list[dict[str, Any]], samples: int) -> None:
    """Ours are theirs, but for what they write of the silence behind a short sound."""
    assert [one.tokens for one in got] == [one["tokens"].tolist() for one in wanted[: len(got)]]
    assert all(float(one["start"]) >= samples / RATE - 0.01 for one in wanted[len(got) :])
    for ours, theirs in zip(got, wanted, strict=False):
        assert np.isclose(ours.start, float(theirs["start"]))
        assert abs(ours.end - float(theirs["end"])) < 0.03


def test_the_windows_that_fall_back_are_transformers(monkeypatch: pytest.MonkeyPatch):
    """At temperatures at which a draw is the likeliest token: as often, and to the same end."""
    theirs, ours = made(2, False)
    tried: dict[str, list[float]] = {"theirs": [], "ours": []}
    generate, hear = transformers.GenerationMixin.generate, transcribe._hear

    def generated(*given: Any, generation_config: Any, **more: Any) -> Any:
        drawn = generation_config.do_sample
        tried["theirs"].append(generation_config.temperature if drawn else 0.0)
        return generate(*given, generation_config=generation_config, **more)

    def heard(*given: Any) -> Any:
        tried["ours"].append(given[2])
        return hear(*given)

    monkeypatch.setattr(transformers.GenerationMixin, "generate", generated)
    monkeypatch.setattr(transcribe, "_hear", heard)
    low = (0.0, 1e-6, 2e-6)
    for seed in range(6):
        samples, limits = sound(seed, 3 * SIZE), Limits(0.75 + 0.04 * seed, -1.2 - 0.1 * seed, 0.0117)
        names = ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold")
        asked = dict(zip(names, limits, strict=True))
        wanted = expected(theirs, frames_of(samples), **asked, temperature=low)
        same(list(ours.transcribe(samples, limits=limits, temperatures=low)), wanted, len(samples))
        count = len(tried["ours"])  # theirs go on over the silence behind the sound
        assert tried["ours"] == tried["theirs"][:count]
        assert set(tried["theirs"][count:]) <= {0.0, *low}
    assert {*tried["ours"]} == {*low}
    assert 0 < tried["ours"].count(2e-6) < tried["ours"].count(0.0)


def test_what_is_drawn_follows_from_the_seed_and_isnt_read_by_the_next_window(
    monkeypatch: pytest.MonkeyPatch,
):
    _, ours = made(1, False)
    samples, never = sound(3, 5 * SIZE), Limits(logprob=0.0)
    texts = [
        [one.tokens for one in ours.transcribe(samples, limits=never, temperatures=[0, 1.0], seed=seed)]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    hear, prompts = transcribe._hear, []

    def heard(*given: Any) -> Any:
        (one,) = given[0]
        prompts.append(len(one.earlier()))
        return hear(*given)

    monkeypatch.setattr(transcribe, "_hear", heard)
    for temperature, reads in ((0.49, True), (0.5, False)):
        prompts.clear()
        said = list(ours.transcribe(samples, condition=True, limits=Limits(), temperatures=[temperature]))
        assert len(said) > 1
        assert (max(prompts) > min(prompts)) == reads
    assert all("unlikely" in one.doubts for one in ours.transcribe(samples, limits=never))


def test_of_several_texts_that_are_drawn_the_likeliest_counts(monkeypatch: pytest.MonkeyPatch):
    """openai's rule: log-probabilities are summed to the last token, and divided by the tokens before it."""
    _, ours = made(2, False)
    draw, drawn = transcribe._drawn, []

    def noted(*given: Any) -> Any:
        texts, cache = draw(*given)
        drawn.append(texts)
        return texts, cache

    monkeypatch.setattr(transcribe, "_drawn", noted)
    asked: dict[str, Any] = {"limits": Limits(), "best_of": 4}
    places, means = [], []
    for seed in range(6):
        drawn.clear()
        said = list(ours.transcribe(sound(seed, SIZE - 2), **asked, temperatures=[1.3], seed=seed))
        texts = [[token for token in tokens if token != END] for tokens, _ in drawn[0]]
        sums = [logprob * len(tokens) for tokens, logprob in drawn[0]]
        assert len(texts) == 4
        places.append(int(np.argmax([total / len(text) for total, text in zip(sums, texts, strict=True)])))
        means.append(int(np.argmax([logprob for _, logprob in drawn[0]])))
        assert said[0].tokens == texts[places[-1]][: len(said[0].tokens)]
        assert said[0].logprob == drawn[0][places[-1]][1]
    assert places != means
    assert len({*places}) > 1
    # Where a draw is the likeliest token, all are the greedy text: of each of several sounds its own.
    samples, greedy = sound(3, 3 * SIZE), {"limits": Limits(), "temperatures": [0.0]}
    wanted = [one.tokens for one in ours.transcribe(samples, **greedy, best_of=4)]
    assert all(len(texts) == 1 for texts in drawn[-len(wanted) :])
    drawn.clear()
    got = ours.transcribe(samples, **asked, temperatures=[1e-6])
    assert [one.tokens for one in got] == wanted
    assert all(len(texts) == 4 and texts.count(texts[0]) == 4 for texts in drawn)


def test_what_a_window_says_has_its_place(monkeypatch: pytest.MonkeyPatch):
    """A text that names no end goes on to the window's, even in a shorter sound. Places count from the begin
    of the sound that an utterance was cut from. Half of the context reads what was written before."""
    _, ours = made(1, False)
    assert ours.generation.speech is not None
    monkeypatch.setattr(transcribe, "_segments", lambda sounds, _: sounds)
    (one,) = ours.transcribe(sound(1, SIZE // 2), condition=True)
    one.first, one.before = 300 * HOP, [*range(50)]
    assert one.earlier() == [hearing_models.PREVIOUS, *range(50 - (32 // 2 - 1), 50)]
    text = [ours.generation.speech.first_timestamp, 7, 8]
    one.take(transcribe._Heard(text, True, -0.1, 1.0, 0.0, 0.0))
    (said,) = one.said
    assert said.tokens == text
    assert (said.seek, said.start, said.end) == (300, 3.0, (300 + SIZE) * HOP / RATE)
    assert one.seek == SIZE


def test_the_first_token_of_the_prompt_says_whether_anybody_speaks():
    """Also where the language and the task follow it."""
    _, ours = made(1, True)
    samples = sound(4, SIZE - 2)
    cache = ours.engine.start(1, frames_of(samples)[None])
    logits, _ = ours.engine.step(np.array([[hearing_models.START]]), cache)
    odds = np.exp(logits[0, 0] - logits[0, 0].max())
    said = list(ours.transcribe(samples, limits=Limits(), language="en"))
    assert np.isclose(said[0].no_speech, odds[hearing_models.NO_TIMESTAMPS - 1] / odds.sum())


@pytest.mark.parametrize(("multilingual", "rule"), [(False, "max_new_tokens"), (True, "max_length")])
def test_texts_are_as_long_as_transformers(multilingual: bool, rule: str, tmp_path: Path):
    """Files may ask for less than the context has room for.

    transformers adds 1 to an English-only model's `max_length` in each later window, which tfm doesn't.
    """
    theirs = hearing_models.write(tmp_path, 2, multilingual=multilingual, **{rule: 5}).double()
    checkpoint = open_checkpoint(tmp_path)
    params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    ours = Model(NumpyEngine(checkpoint.config, params), checkpoint)
    asked = {"task": "transcribe"} if multilingual else {}
    for seed in (1, 2, 3):
        samples = sound(seed, SIZE - 3)
        wanted = expected(theirs, frames_of(samples), **asked)
        same(list(ours.transcribe(samples, limits=Limits())), wanted, len(samples))


@pytest.mark.parametrize("best_of", [0, 65])
def test_texts_are_drawn_at_least_once(best_of: int):
    with refused(LimitError, "best_of", 64, best_of):
        made(1, False)[1].transcribe(sound(1, 9), best_of=best_of)


@pytest.mark.parametrize("temperatures", [[], [0, -0.2], [np.inf], [np.nan]])
def test_temperatures_are_numbers_from_0_up(temperatures: list[float]):
    with refused(LimitError, "temperatures", str(temperatures)):
        made(1, False)[1].transcribe(sound(1, 9), temperatures=temperatures)


@pytest.mark.parametrize("beams", [0, 65])
def test_beams_are_some(beams: int):
    with refused(LimitError, "beams", 64, beams):
        made(1, False)[1].transcribe(sound(1, 9), beams=beams)


def test_a_language_is_told_by_name_or_code_and_a_task_by_name():
    theirs, ours = made(1, True)
    samples = sound(4, 3 * SIZE)
    for name, task in (("german", "translate"), ("de", None), ("English", "transcribe")):
        wanted = expected(theirs, frames_of(samples), language=name.lower(), task=task)
        got = list(ours.transcribe(samples, language=name, task=task, limits=Limits()))
        same(got, wanted, len(samples))
        assert {one.language for one in got} == {"de" if name != "English" else "en"}
    with refused(LimitError, "language", "de", "en", "'french'"):
        ours.transcribe(samples, language="french")
    with refused(LimitError, "task", "transcribe", "translate", "'sing'"):
        ours.transcribe(samples, task="sing")
    _, alone = made(1, False)
    with refused(LimitError, "language", "'de'"):
        alone.transcribe(samples, language="de")
    assert list(alone.transcribe(samples, language="en")) == list(alone.transcribe(samples))
    with refused(LimitError, "task", "transcribe", "'translate'"):
        alone.transcribe(samples, task="translate")


@pytest.mark.long
@pytest.mark.parametrize("quant", ["fp32", "int8", "int8-dynamic"])
def test_a_bundle_writes_what_the_specification_writes(quant: str, tmp_path: Path):
    """On ONNX Runtime, of the bundle's own weights: whole, on tfm's kernels, and rounded as it runs."""
    hearing_models.write(tmp_path / "model", 1, multilingual=True)
    checkpoint = open_checkpoint(tmp_path / "model")
    export(checkpoint, tmp_path / "bundle", quant=quant, verify=False)
    bundle = open_bundle(tmp_path / "bundle")
    ours = Model(NumpyEngine(bundle.config, bundle.params()), checkpoint)
    runs, same_texts = load(tmp_path / "bundle"), 0
    assert isinstance(runs.engine, OrtEngine)
    assert not runs.engine.session.get_session_options().enable_mem_pattern
    windows = np.stack([frames_of(sound(seed, SIZE)) for seed in range(3)])
    several = runs.engine.start(3, windows)
    for row, window in enumerate(windows):
        alone = runs.engine.start(1, window[None]).encoder_kv()
        np.testing.assert_equal(several.copy(row).encoder_kv(), alone)
    for seed in range(6):
        samples = sound(seed, 3 * SIZE)
        wanted = list(ours.transcribe(samples, limits=Limits(), words=True))
        got = list(runs.transcribe(samples, limits=Limits(), words=True))
        same_texts += [one.tokens for one in got] == [one.tokens for one in wanted]
        if quant == "fp32":
            assert [one.words for one in got] == [one.words for one in wanted]
    assert same_texts >= (6 if quant == "fp32" else 5)  # a rounded activation may turn a tie


def test_an_utterance_is_heard_in_its_pause(monkeypatch: pytest.MonkeyPatch):
    """Once, after 0.2 seconds of it, and given after 0.4; one that goes on is heard anew."""
    monkeypatch.setattr(transcribe, "Voice", lambda _: lambda chunk: float(np.abs(chunk).max() > 0))
    speech, read, heard = np.ones(RATE), 0, []
    whole = np.concatenate([speech, np.zeros(int(0.3 * RATE)), speech, np.zeros(RATE)])

    def blocks() -> Iterator[np.ndarray]:
        nonlocal read
        for block in np.split(whole, np.arange(512, len(whole), 512)):
            read += len(block)
            yield block

    def hear(first: int, samples: np.ndarray) -> Iterator[Any]:
        heard.append((first, round(len(samples) / RATE, 1), round(read / RATE, 1)))
        yield len(heard)

    told = [(one, round(read / RATE, 1)) for one in transcribe._as_it_comes(blocks(), hear, silent)]
    assert heard == [(0, 1.2, 1.2), (0, 2.5, 2.5)]
    assert told == [(2, 2.7)]


@pytest.mark.parametrize(("comes", "batch"), [(False, 1), (True, 1), (False, 3)])
def test_utterances_are_heard_as_sounds_of_their_own(
    comes: bool, batch: int, monkeypatch: pytest.MonkeyPatch
):
    """What lies between pauses, at its place in the whole sound; a file's pauses are longer. Several may be
    heard at once; the languages are their own, and only those that leave doubts are heard again."""
    _, ours = made(2, True)
    monkeypatch.setattr(transcribe, "Voice", lambda _: lambda chunk: float(np.abs(chunk).max() > 1e-3))
    limits, tried, hear = Limits(9.0, -1.1, 0.5), [], transcribe._hear

    def heard(*given: Any) -> Any:
        tried.append(len(given[0]))
        return hear(*given)

    # All draws are in one language to these models.
    monkeypatch.setattr(transcribe, "spoken_language", lambda row, of: sorted(of)[int(99 * row[0]) % 2])
    asked: dict[str, Any] = {"limits": limits, "temperatures": [0, 1e-6, 0.7], "words": True}
    lengths, pause = (3 * SIZE, SIZE, 2 * SIZE, SIZE // 2), int((0.5 if comes else 2.1) * RATE)
    sounds = [sound(seed, length) for seed, length in enumerate(lengths, 1)]
    whole = np.concatenate([part for one in sounds for part in (np.zeros(pause), one, np.zeros(pause))])
    blocks = (whole[i : i + 999] for i in range(0, len(whole), 999))
    with monkeypatch.context() as patch:
        patch.setattr(transcribe, "_hear", heard)
        got = [*ours.transcribe(blocks if comes else whole, **asked, vad=not comes, batch=batch)]
    assert set(tried) == ({1} if batch == 1 else {1, 2, 3})
    settings: dict[str, Any] = {"pause": 0.4 if comes else 2.0, "longest": 29.0 if comes else 300.0}
    settings |= {"on_pause": lambda _: None} if comes else {}
    parts = [*utterances([whole], lambda chunk: float(np.abs(chunk).max() > 1e-3), **settings)]
    assert len(parts) == len(sounds)
    wanted = [(at, one) for at, samples in parts for one in ours.transcribe(samples, **asked)]
    assert len(got) == len(wanted) > 2
    assert {one.language for one in got} == {"en", "de"}
    for said, (at, one) in zip(got, wanted, strict=True):
        assert (said.tokens, said.seek) == (one.tokens, one.seek + at // HOP)
        assert (said.language, said.temperature) == (one.language, one.temperature)
        assert np.allclose([said.start, said.end], np.array([one.start, one.end]) + at / RATE)
        assert [word.text for word in said.words] == [word.text for word in one.words]
        times = [[(word.start, word.end) for word in of.words] for of in (said, one)]
        assert np.allclose(times[0], np.array(times[1]) + at / RATE)
    with refused(LimitError, "finite", 1):
        list(ours.transcribe(iter([np.array([0.0, np.nan])])))
    with refused(LimitError, "finite", 3):
        list(ours.transcribe(iter([np.zeros(2), np.array([0.0, np.inf])])))
    with refused(LimitError, "batch", 2):
        ours.transcribe(iter([np.zeros(5)]), batch=2)
    with refused(LimitError, "floats"):
        list(ours.transcribe(iter([np.zeros(5, np.int16)])))


def test_the_torch_engine_looks_where_the_specification_looks():
    _, ours = made(1, False)
    engine = ours.engine
    assert isinstance(engine, NumpyEngine)
    tokens, heads = np.array([[61, 70, 3, 9, 7]]), ((1, 2), (0, 1))
    frames = np.random.default_rng(1).normal(size=(1, SIZE, BANDS))
    found = []
    for one in (engine, TorchEngine(engine.config, engine.params)):
        found.append(one.cross_attention(tokens, one.start(1, frames), heads))
    assert found[0].shape == (2, 5, SIZE // 2)
    assert np.allclose(*found, rtol=1e-12)
    assert np.allclose(found[0].sum(-1), 1)
    assert not np.allclose(found[0][0], found[0][1], rtol=0.1)


def test_segments_come_before_the_sound_is_heard():
    _, ours = made(1, False)
    steps: list[tuple[str, int, int]] = []
    found = ours.transcribe(sound(3, 5 * SIZE), limits=Limits(), progress=lambda *of: steps.append(of))
    next(found)
    assert [done for _, done, _ in steps] == [0]
    assert len(list(found)) > 1
    dones = [done for _, done, _ in steps]
    assert dones == sorted(set(dones))
    assert steps[-1][1:] == (5 * SIZE, 5 * SIZE)


@pytest.mark.parametrize(
    ("rules", "error", "parts"),
    [
        ({"no_timestamps_token_id": None}, CheckpointError, ("no_timestamps_token_id",)),
        ({"eos_token_id": [60, 59]}, CheckpointError, ("eos_token_id", "[60, 59]")),
    ],
)
def test_what_cant_be_followed_is_an_error(
    rules: dict[str, Any], error: type[Exception], parts: tuple[object, ...], tmp_path: Path
):
    hearing_models.write(tmp_path, 1, multilingual=False, **rules)
    checkpoint = open_checkpoint(tmp_path)
    with refused(error, *parts):
        Model(NumpyEngine(checkpoint.config, checkpoint.params), checkpoint).transcribe(sound(1, 9))


def test_a_model_of_texts_hears_nothing():
    config = tiny_models.encoder_decoder()
    model = Model(NumpyEngine(config, tiny_models.weights(config)), task_models.ModelFiles(None))
    with refused(ConfigError, "generate", "transcribe"):
        model.transcribe(sound(1, 9))
