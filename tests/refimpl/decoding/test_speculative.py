"""Drafts change no token, greedy or sampled: the text with one is the text without, on each engine.

The oracle is the same model decoded token by token. transformers' speculative sampling has the same
distribution but another text for each draft, so it can't be compared.
"""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from helpers.drained import drained
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.decoding.speculative import DraftModel, PromptLookup, draft_length, speculate
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import LimitError, NumericError

seeds = st.integers(0, 2**32 - 1)
samplers = st.builds(
    Sampler,
    temperature=st.sampled_from((None, 0.3, 1.0, 3.0)),
    top_k=st.sampled_from((None, 2, 4)),
    top_p=st.sampled_from((None, 0.5, 0.9)),
    min_p=st.sampled_from((None, 0.1)),
    typical_p=st.sampled_from((None, 0.8)),
    repetition_penalty=st.sampled_from((None, 1.3)),
    frequency_penalty=st.sampled_from((None, 0.7)),
    no_repeat_ngram=st.sampled_from((None, 3)),
    min_new_tokens=st.sampled_from((None, 4)),
)


class Table:
    """An engine whose logits are a table's row, chosen by the last two tokens; it counts its steps."""

    def __init__(self, seed: int, n: int = 3, context: int = 64) -> None:
        self.logits = np.random.default_rng(seed).standard_normal((n, n, n)) * 2
        self.config: Any = SimpleNamespace(context=context, embedding=SimpleNamespace(vocabulary=n))
        self.steps = 0

    def start(self, batch: int = 1) -> Text:
        return Text([])

    def step(self, tokens: np.ndarray, cache: Text, lengths: Any = None, at: Any = None) -> Any:
        self.steps += 1
        text = [*cache.text, *map(int, tokens[0])]
        assert len(text) <= self.config.context
        ends = [len(text) - 1] if at is None else len(cache.text) + at[0]
        return np.stack([self.logits[(0, *text)[i], text[i]] for i in ends])[None], Text(text)


class Text:
    def __init__(self, text: list[int]) -> None:
        self.text, self.lengths, self.floor = text, np.array([len(text)]), np.zeros(1, np.int64)

    def truncate(self, lengths: np.ndarray) -> Text:
        assert 0 <= lengths[0] <= len(self.text)
        return Text(self.text[: lengths[0]])


class Fixed:
    """Proposes the same tokens always."""

    def propose(self, row: GeneratedSequence, count: int) -> list[int]:
        return [0, 1, 1][:count]


@given(
    seeds,
    samplers,
    st.sampled_from(("model", "itself", "lookup", "fixed")),
    st.integers(1, 6),
    st.integers(1, 20),
)
def test_the_text_is_the_one_without_drafts(
    seed: int, sampler: Sampler, kind: str, draft_length: int, steps: int
):
    """Over seeds, options and lengths of drafts; the cache holds what was written, and nothing refused."""
    target, other = Table(seed, n=7), Table(seed + 1, n=7)
    row, wanted = (
        GeneratedSequence([3, 1, 4, 1], sampler, frozenset({5}), steps, seed % 1000) for _ in range(2)
    )
    drafter = {
        "model": DraftModel(other, target),
        "itself": DraftModel(Table(seed, n=7), target),
        "lookup": PromptLookup(),
        "fixed": Fixed(),
    }[kind]
    made, cache = drained(speculate(target, row, drafter, draft_length))
    assert made == list(generate(Table(seed, n=7), wanted))
    assert (row.tokens, row.finish_reason) == (wanted.tokens, wanted.finish_reason)
    assert cache.text == [*row.prompt, *row.tokens][: len(cache.text)]
    assert len(cache.text) >= len(row.prompt) + len(row.tokens) - 1
    if kind == "itself" and row.finish_reason == "length":
        assert target.steps == 1 + -(-(steps - 1) // (draft_length + 1))


def test_a_draft_of_the_model_itself_is_always_accepted() -> None:
    """Penalties, bans and random numbers are those of the same position, so steps are the fewest."""
    sampler = Sampler(temperature=1.0, frequency_penalty=2.0, no_repeat_ngram=3, min_new_tokens=6, top_k=3)
    for seed in range(40):
        target, row = Table(seed, n=5), GeneratedSequence([1, 2], sampler, frozenset({0}), 13, seed)
        list(speculate(target, row, DraftModel(Table(seed, n=5), target), draft_length=3))
        made = len(row.tokens) + (row.finish_reason == "stop")
        assert made > 6
        assert target.steps == 1 + -(-(made - 1) // 4)


def test_a_reader_may_end_it_amid_a_draft() -> None:
    target, row = Table(1, n=5), GeneratedSequence([1, 2], max_new_tokens=20)
    drive, made = speculate(target, row, DraftModel(Table(1, n=5), target), draft_length=4), []
    while True:
        try:
            made.append(next(drive))
        except StopIteration as end:
            cache = end.value
            break
        if len(made) == 3:
            row.finish("stop")
    assert row.tokens == made
    assert len(made) == 3
    assert cache.text == [1, 2, *made][: len(cache.text)]


def test_drafts_stay_in_the_context() -> None:
    """The model's own and the draft's, which proposes nothing where it has no more room."""
    for mine, other in ((9, 64), (64, 9), (9, 9)):
        target, draft = Table(2, n=5, context=mine), Table(2, n=5, context=other)
        row, wanted = (GeneratedSequence([1, 2, 3], max_new_tokens=15) for _ in range(2))
        assert list(speculate(target, row, DraftModel(draft, target))) == list(generate(target, wanted))


def test_lookup_by_hand() -> None:
    def proposed(text: list[int], count: int, max_ngram: int = 3) -> list[int]:
        lookup = PromptLookup(max_ngram, cost=lambda tokens: 1 / tokens)  # so it drafts all that it finds
        return lookup.propose(GeneratedSequence(text[:2], tokens=text[2:]), count)

    assert proposed([1, 2, 3, 9, 1, 2, 3], 2) == [9, 1]
    assert proposed([1, 2, 3, 9, 1, 2, 3], 9) == [9, 1, 2, 3]
    assert proposed([1, 2, 3, 5, 2, 3, 6, 1, 2, 3], 1) == [
        5
    ]  # three tokens that agree before two that are later
    assert proposed([1, 2, 3, 5, 2, 3, 6, 1, 2, 3], 1, max_ngram=2) == [6]
    assert proposed([7, 7, 7], 3) == [7]
    assert proposed([2, 3, 5, 1, 3], 1) == []  # one token is no match
    assert proposed([1, 2, 3], 3) == []
    assert proposed([1, 2], 3) == []


def test_as_many_tokens_are_drafted_as_pay() -> None:
    assert draft_length(0.5, 4, lambda tokens: 1.0) == 4
    assert draft_length(0.5, 4, lambda tokens: 1.87) == 4  # 1 + 1/2 + 1/4 + 1/8 + 1/16 = 1.9375
    assert draft_length(0.5, 3, lambda tokens: 1.88) == 0  # 1 + 1/2 + 1/4 + 1/8 = 1.875
    assert draft_length(0.0, 4, lambda tokens: 1.0) == 0
    assert draft_length(1.0, 9, lambda tokens: tokens) == 0
    assert draft_length(1.0, 9, lambda tokens: 1.2 if tokens <= 4 else 3.1) == 3  # 4 / 1.2, 10 / 3.1
    assert draft_length(1.0, 9, lambda tokens: 1.2 if tokens <= 4 else 2.0) == 9


def test_lookup_drafts_while_that_pays() -> None:
    """Two tokens that came true give a rate of 0.73, of which drafts in vain leave 0.49, 0.34, 0.24, 0.18,
    0.13 and 0.09: too little for a step of 2, which takes 1.1 of 1."""
    row, lookup = GeneratedSequence([1, 2, 3, 4, 5, 1, 2]), PromptLookup(max_ngram=2)
    for token in (3, 4):  # what would have been drafted comes true
        assert lookup.propose(row, 4) == []
        row.tokens.append(token)
    assert lookup.propose(row, 4) == [5, 1, 2, 3]
    for unseen, length in ((10, 2), (11, 1), (12, 1), (13, 1), (14, 1), (15, 0), (16, 0)):
        row.tokens += [unseen, 1, 2]
        assert len(lookup.propose(row, 4)) == length
    assert lookup.propose(GeneratedSequence([1, 2, 3, 1, 2]), 4) == [], "another text begins anew"


def test_a_text_that_never_repeats_itself_has_no_drafts() -> None:
    """Two tokens recur again and again, and another one follows each time."""
    row, lookup = GeneratedSequence([1, 2]), PromptLookup()
    for unseen in range(10, 60):
        row.tokens += [unseen, 1, 2]
        assert lookup.propose(row, 11) == []


def test_steps_without_a_draft_are_those_of_the_loop() -> None:
    """They name no positions, and nothing is cut off afterwards."""

    class Uncut(Text):
        def truncate(self, lengths: np.ndarray) -> Text:
            pytest.fail("nothing was refused")

    class Plain(Table):
        def step(self, tokens: np.ndarray, cache: Text, lengths: Any = None, at: Any = None) -> Any:
            assert at is None
            logits, cache = super().step(tokens, cache)
            return logits, Uncut(cache.text)

    row, none = GeneratedSequence([1, 2], max_new_tokens=9), PromptLookup(cost=lambda tokens: 1e9)
    assert len(list(speculate(Plain(0), row, none))) == 9


def test_a_greedy_position_takes_no_vector_of_probabilities() -> None:
    """Nothing as large as one in float64 is made."""
    size = 200_000
    target = Table(0)
    logits = np.zeros((1, 1, size), np.float32)
    target.step = lambda tokens, cache, lengths=None, at=None: (
        np.broadcast_to(logits, (1, 1 if at is None else at.shape[1], size)),
        Text([*cache.text, *map(int, tokens[0])]),
    )
    drive = speculate(target, GeneratedSequence([1, 2], max_new_tokens=20), Fixed())
    next(drive)
    tracemalloc.start()
    list(drive)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size <= peak < 8 * size


class Narrow(Table):
    """An engine that can't compute one token, as one whose keys don't fit the cache."""

    def step(self, tokens: np.ndarray, cache: Text, lengths: Any = None, at: Any = None) -> Any:
        if UNFIT in tokens:
            cache.text.append(UNFIT)  # nobody may use it again
            raise NumericError("a key or value doesn't fit the cache")
        return super().step(tokens, cache, lengths, at)


UNFIT = 6


class Unfit:
    """Drafts the right token and then the one that can't be computed."""

    def __init__(self, wanted: list[int]) -> None:
        self.wanted = wanted

    def propose(self, row: GeneratedSequence, count: int) -> list[int]:
        at = len(row.tokens)
        return [*self.wanted[at : at + 1], UNFIT][:count] if at > 1 else []


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_a_refused_token_that_cannot_be_computed_changes_nothing(temperature: float | None) -> None:
    """Neither the text nor its error, where its own token can't be."""
    ended = []
    for seed in range(40):
        sampler = Sampler(temperature=temperature)
        row, wanted = (GeneratedSequence([3, 1, 4, 1], sampler, max_new_tokens=12, seed=1) for _ in range(2))
        ends: list[str] = []
        for drive in (
            generate(Narrow(seed, n=7), wanted),
            speculate(Narrow(seed, n=7), row, Unfit(wanted.tokens), 2),
        ):
            try:
                list(drive)
                ends.append("length")
            except NumericError as error:
                ends.append(str(error))
        assert row.tokens == wanted.tokens
        assert ends[0] == ends[1]
        ended.append(ends[0])
    assert len(set(ended)) == 2


def test_a_draft_model_that_cannot_compute_a_text_drafts_no_more_of_it() -> None:
    target, draft = Table(0, n=7), Narrow(0, n=7)
    drafter, row = DraftModel(draft, target), GeneratedSequence([3, UNFIT, 4], max_new_tokens=12)
    wanted = GeneratedSequence([3, UNFIT, 4], max_new_tokens=12)
    assert list(speculate(target, row, drafter)) == list(generate(target, wanted))
    assert draft.steps == 0
    assert drafter.propose(GeneratedSequence([3, 1, 4]), 2), "of another text it has drafts"


def test_a_draft_model_reads_only_what_is_new() -> None:
    target, draft = Table(0, n=5), Table(1, n=5)
    drafter, row = DraftModel(draft, target), GeneratedSequence([1, 2, 3], max_new_tokens=12)
    list(speculate(target, row, drafter, draft_length=3))
    assert drafter._cached_tokens == drafter._cache.text
    again = GeneratedSequence([1, 2, 4], max_new_tokens=5)
    assert list(speculate(target, again, drafter, draft_length=3)) == list(
        generate(target, GeneratedSequence([1, 2, 4], max_new_tokens=5))
    )
    with refused(LimitError, "vocabulary", 5, 4):
        DraftModel(Table(0, n=4), target)


def test_all_engines_agree(engines: list[Any]) -> None:
    """Speculation cuts caches back on each engine: texts are those of NumPy, without drafts."""
    prompt = [5, 17, 8, 3, 5, 17]
    for sampler in (Sampler(), Sampler(temperature=1.0, top_k=5)):
        for drafter in (lambda engine: PromptLookup(), lambda engine: DraftModel(engines[0], engine)):
            texts = [GeneratedSequence(prompt, sampler, max_new_tokens=30) for _ in engines]
            for engine, row in zip(engines, texts, strict=True):
                assert len(list(speculate(engine, row, drafter(engine), draft_length=3))) == 30
            wanted = list(generate(engines[0], GeneratedSequence(prompt, sampler, max_new_tokens=30)))
            assert all(row.tokens == wanted for row in texts)


def test_a_recurrence_takes_drafts_and_may_draft() -> None:
    """Its state can't go back over a rejected token, so a copy is read again; as a draft model it reads the
    text again."""
    config = tiny_models.recurrent()
    recurrence = NumpyEngine(config, tiny_models.weights(config, dtype=np.float64))
    row, wanted = (GeneratedSequence([1, 2], max_new_tokens=9) for _ in range(2))
    assert list(speculate(recurrence, row, Fixed())) == list(generate(recurrence, wanted))
    target = NumpyEngine(tiny_models.llama(), tiny_models.weights(tiny_models.llama()))
    row = GeneratedSequence([5, 17], max_new_tokens=9)
    assert list(speculate(target, row, DraftModel(recurrence, target), draft_length=3)) == list(
        generate(target, GeneratedSequence([5, 17], max_new_tokens=9))
    )
