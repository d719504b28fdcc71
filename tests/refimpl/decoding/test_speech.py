"""Whisper's rules: each is transformers' own on drawn logits and tokens, and what they are for holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.decoding.logprobs import token_logprob
from tfm.refimpl.decoding.speech import (
    STEP,
    Limits,
    compression_ratio,
    doubts,
    no_speech_probability,
    pieces,
    spoken_language,
    timestamp_rules,
)
from transformers import WhisperTimeStampLogitsProcessor
from transformers.generation.logits_process import WhisperNoSpeechDetection
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin as Theirs

N, END, FIRST = 40, 20, 27  # 7 tokens between the end and the first of 13 timestamps
seeds = st.integers(0, 2**32 - 1)
tokens = st.lists(st.one_of(st.integers(0, END - 1), st.integers(FIRST, N - 1)), max_size=7)
latest = st.none() | st.integers(0, 14)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((*shape, N)) * 3


@given(seeds, tokens, latest)
def test_timestamp_rules_are_transformers(seed: int, written: list[int], latest: int | None):
    asked = SimpleNamespace(
        no_timestamps_token_id=FIRST - 1, eos_token_id=END, max_initial_timestamp_index=latest
    )
    theirs = WhisperTimeStampLogitsProcessor(asked, begin_index=2)  # pyright: ignore[reportArgumentType]
    logits = draw(seed)
    prompt = torch.tensor([[3, 5, *written]])
    wanted = theirs(prompt, torch.from_numpy(logits)[None])[0].numpy()  # pyright: ignore[reportArgumentType]
    got = timestamp_rules(logits, written, first=FIRST, end=END, latest=latest)
    assert np.array_equal(got, wanted)


@given(seeds, latest, st.integers(2, 25))
def test_whatever_is_drawn_by_the_rules_has_times_that_go_on_in_pairs(
    seed: int, latest: int | None, count: int
):
    rng, written = np.random.default_rng(seed), []
    while len(written) < count and END not in written:
        logits = timestamp_rules(rng.normal(size=N) * 5, written, first=FIRST, end=END, latest=latest)
        written.append(int(rng.choice(np.flatnonzero(np.isfinite(logits)))))
    times = [token - FIRST for token in written if token >= FIRST]
    assert written[0] >= FIRST
    assert latest is None or times[0] <= latest
    assert times == sorted(times)
    assert FIRST - 1 not in written
    for i in range(1, len(written)):
        if written[i] < END and written[i - 1] >= FIRST:  # a text follows a pair, or the first timestamp
            assert i == 1 or written[i - 2] >= FIRST
        if i > 1 and written[i] >= FIRST and written[i - 1] < FIRST:  # a segment has a length
            assert written[i] > max(token for token in written[:i] if token >= FIRST)


@given(seeds, st.integers(0, N - 1))
def test_no_speech_is_transformers(seed: int, silence: int):
    logits = draw(seed)
    theirs = WhisperNoSpeechDetection(silence, begin_index=1)
    theirs(torch.tensor([[3]]), torch.from_numpy(logits)[None])  # pyright: ignore[reportArgumentType]
    assert np.isclose(no_speech_probability(logits, silence), float(theirs.no_speech_prob[0]), rtol=1e-5)


@given(seeds, st.sets(st.integers(0, N - 1), min_size=1))
def test_the_language_is_transformers(seed: int, languages: set[int]):
    logits = draw(seed)

    class Model:
        device = "cpu"

        def __call__(self, **_: Any) -> Any:
            return SimpleNamespace(logits=torch.from_numpy(logits.copy())[None, None])

    asked: Any = SimpleNamespace(decoder_start_token_id=3, lang_to_id={str(i): i for i in languages})
    (wanted,) = Theirs.detect_language(Model(), torch.zeros(1, 4, 10), None, asked).tolist()  # pyright: ignore[reportArgumentType]
    assert spoken_language(logits, languages) == wanted


def mean_logprob(logits: np.ndarray, written: list[int]) -> float:
    return float(np.mean([token_logprob(*of, 0).logprob for of in zip(logits, written, strict=True)]))


@given(seeds, tokens.filter(bool), st.sampled_from([40, 255, 256, 51865, 2**16, 2**16 + 1]))
def test_ratios_and_means_are_transformers(seed: int, written: list[int], vocabulary: int):
    wanted = Theirs._retrieve_compression_ratio(torch.tensor(written), vocabulary)
    assert compression_ratio(written, vocabulary) == wanted
    logits = draw(seed, len(written))
    scores = [torch.from_numpy(row) for row in logits]
    mean = Theirs._retrieve_avg_logprobs(scores, torch.tensor(written), 0.0)
    assert np.isclose(mean_logprob(logits, written), float(mean), rtol=1e-5)


def test_a_text_in_circles_is_compressed():
    rng = np.random.default_rng(1)
    assert compression_ratio([7, 8, 9] * 30, N) > 2.4 > compression_ratio(rng.permutation(N).tolist(), N)


limits = st.tuples(
    st.none() | st.floats(0.2, 1.2), st.none() | st.floats(-9, 0), st.none() | st.floats(0, 1)
).map(lambda of: Limits(*of) if of[1] is not None else Limits(of[0]))  # transformers' last needs the second


@given(seeds, tokens.filter(bool), limits, st.floats(0, 1))
def test_doubts_are_transformers(seed: int, written: list[int], limits: Limits, silence: float):
    logits = draw(seed, len(written))
    detector = WhisperNoSpeechDetection(0, begin_index=1)
    detector._no_speech_prob = [silence]  # pyright: ignore[reportAttributeAccessIssue]
    names = ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold")
    asked = SimpleNamespace(**dict(zip(names, limits, strict=True)))
    self = SimpleNamespace(
        _retrieve_compression_ratio=Theirs._retrieve_compression_ratio,
        _retrieve_avg_logprobs=Theirs._retrieve_avg_logprobs,
    )
    outputs: Any = [{"scores": [torch.from_numpy(row) for row in logits]}]
    again, skip = Theirs._need_fallback(
        self, torch.tensor(written), outputs, 0, [detector], asked, N, 0.0  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    found = doubts(compression_ratio(written, N), mean_logprob(logits, written), silence, limits)
    assert (found == {"silence"}, bool(found - {"silence"})) == (skip, again)


@st.composite
def windows(draw_: st.DrawFn) -> list[int]:
    """What the rules allow, of segments with or without an end."""
    written, time = [], 0
    for _ in range(draw_(st.integers(1, 3))):
        time += draw_(st.integers(0, 1))
        text = draw_(st.lists(st.integers(0, END - 1), min_size=1, max_size=3))
        time, begin = time + draw_(st.integers(1, 3)), time
        written += [FIRST + begin, *text, FIRST + time]
    dropped = draw_(st.integers(0, 3))
    last = draw_(st.booleans())
    return written[: max(1, len(written) - dropped)] + ([FIRST + time] if last and not dropped else [])


@given(windows(), st.integers(1, 60))
def test_segments_are_transformers(written: list[int], frames: int):
    theirs, done = Theirs._retrieve_segment(
        seek_sequence=torch.tensor(written),
        seek_outputs=[{}],
        time_offset=torch.tensor([0.0], dtype=torch.float64),
        timestamp_begin=FIRST,
        seek_num_frames=torch.tensor([frames]),
        time_precision=0.02,
        time_precision_features=0.01,
        input_stride=STEP,
        prev_idx=0,
        idx=0,
        return_token_timestamps=False,
        decoder_input_ids=torch.zeros(1, 3),
    )
    got, advance = pieces(written, first=FIRST, frames=frames)
    assert advance == int(done)
    assert [piece.tokens for piece in got] == [segment["tokens"].tolist() for segment in theirs]
    for piece, segment in zip(got, theirs, strict=True):
        assert np.isclose(piece.begin * 0.02, float(segment["start"]))
        # Where no timestamp says when it ends, theirs is the number of frames halved with rounding errors.
        assert abs(piece.end * 0.02 - float(segment["end"])) < (1e-9 if len(theirs) > 1 else 0.03)
