"""Answers in a text: spans as transformers scores them, windows as the library cuts them, whole words."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import task_models, text_strategies
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import QuestionAnswering
from tfm.refimpl.errors import LimitError
from tfm.runtime.tasks.answer import best_spans, widened, windows
from tfm.runtime.text.tokenizer import Tokenizer
from transformers.pipelines.document_question_answering import select_starts_ends

CONFIG = task_models.config(QuestionAnswering())
WORDS = ["the", "cat", "is", "catting", "x,", "Is"]
SOME = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
TOKENIZER = Tokenizer(task_models.WORDS.to_str(), task_models.SIZE)


@given(SOME, SOME, st.integers(1, 6), st.integers(1, 20), st.integers(0, 2**32))
def test_spans_are_scored_as_the_pipeline_does(asked: str, context: str, count: int, longest: int, seed: int):
    row = TOKENIZER.encode_with_offsets(asked, context)
    logits = np.random.default_rng(seed).normal(0, 2, (len(row.ids), 2)).astype(np.float32)
    # What may not be an answer: all but the context; the first token is seen, but is no span.
    masked = np.array([[int(text != 1) for text in row.sequence_ids]])
    masked[0, 0] = 0
    seen = np.ones_like(masked)
    start, end = logits[None, :, 0], logits[None, :, 1]
    starts, ends, scores, null = select_starts_ends(start, end, masked, seen, 1e6, count, True, longest)
    spans, empty = best_spans(logits, row, count, longest)
    own = row.sequence_ids.count(1)
    possible = sum(min(longest, own - i) for i in range(own))
    assert len(spans) == min(count, possible)
    # Theirs may name spans that can't be, at a score of 0, where there are fewer than asked for.
    wanted = [
        (a, b, s) for a, b, s in zip(starts.tolist(), ends.tolist(), scores.tolist(), strict=True) if s > 0
    ]
    assert [(a, b) for a, b, _ in spans] == [(a, b) for a, b, _ in wanted]
    np.testing.assert_allclose([s for *_, s in spans], [s for *_, s in wanted], rtol=1e-4)
    assert empty == pytest.approx(null, rel=1e-4)


@given(SOME, SOME, st.integers(0, 8), st.integers(1, 9))
def test_windows_are_those_of_the_library(asked: str, context: str, stride: int, more: int) -> None:
    made = text_strategies.wordpiece()
    whole = TOKENIZER.encode_with_offsets(asked, context)
    room = stride + more
    window = len(whole.ids) - whole.sequence_ids.count(1) + room
    made.enable_truncation(window, stride=stride, strategy="only_second")
    want = made.encode(asked, context)
    parts = [want, *want.overflowing]
    got = windows(whole, 1000, window, stride, 1)
    assert [row.ids for row in got] == [part.ids for part in parts]
    assert [row.offsets for row in got] == [part.offsets for part in parts]
    assert [row.sequence_ids for row in got] == [part.sequence_ids for part in parts]
    assert [row.type_ids for row in got] == [part.type_ids for part in parts]


def test_an_answer_is_whole_words() -> None:
    context = "the catting is"
    row = TOKENIZER.encode_with_offsets("x", context)
    names = [TOKENIZER.id_to_token(i) for i in row.ids]
    assert names == ["[CLS]", "x", "[SEP]", "the", "cat", "##t", "##ing", "is", "[SEP]"]
    assert [context[slice(*widened(row, *at))] for at in ((5, 5), (3, 4), (5, 7), (3, 3))] == [
        "catting", "the catting", "catting is", "the",
    ]  # fmt: skip


def test_windows_find_what_the_whole_text_finds() -> None:
    """Logits that point at one word, wherever it stands."""
    context = " ".join(["the cat is"] * 9 + ["catting"] + ["the cat is"] * 9)
    oracle = task_models.Oracle(CONFIG, 2, 0)
    target = TOKENIZER.encode("catting")

    def point(ids: list[int]) -> np.ndarray:
        made = np.zeros((len(ids), 2), np.float32)
        for i in range(len(ids)):
            if ids[i : i + len(target)] == target:
                made[i, 0] = made[i + len(target) - 1, 1] = 9
        return made

    oracle.row = point
    model = task_models.reader(oracle)
    asked = ("is the cat", context)
    for given_ in ({}, {"window": 20, "stride": 5}, {"window": 12, "stride": 0}, {"batch": 1}):
        [[best]] = model.answer(asked, **given_)
        assert (best.text, context[best.start : best.end]) == ("catting", "catting"), given_
        assert best.score > 0.9
    other = model.answer([("is", "the cat"), asked, ("x", "is the")], count=2, may_be_none=True)
    assert other[1][0]._replace(score=best.score) == best
    assert [len(spans) for spans in other] == [2, 2, 2]
    # All logits are alike: the score of none is that of any one token.
    flat = model.answer(("is", "the cat"), count=9, may_be_none=True)[0]
    assert [(s.text, s.score) for s in flat if not s.text] == [("", pytest.approx(1 / 9))]


def test_what_is_refused() -> None:
    model = task_models.tiny_reader(QuestionAnswering())
    for wrong, match in (
        ({"count": 0}, "count longest 1 0 15"),
        ({"longest": 0}, "count longest 1 0"),
        ({"window": 33}, "window context 32"),
        ({"stride": -1}, "stride -1"),
        ({"window": 10, "stride": 9}, "window 10 6 stride 9"),
    ):
        with refused(LimitError, *match.split()):
            model.answer(("cat", "the cat is the cat is the cat"), **wrong)
    with refused(LimitError, "question", "2", "43", "window", "32", "0"):
        model.answer([("cat", "is"), ("cat " * 40, "is")])
    with refused(LimitError, "question", "1", "tokens"):
        model.answer(("cat", " "))
