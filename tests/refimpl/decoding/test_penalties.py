"""Penalties and bans: each is transformers' own, where it has one, and so is their chain.

transformers has no presence and frequency penalties: what they take off goes through its sequence
bias, and the sums of both are written out by hand from the API's formula.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.refused import refused
from helpers.tolerances import equal
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.refimpl.decoding.penalties import (
    add_bias,
    adjust_logits,
    ban,
    ban_ngrams,
    ban_words,
    force,
    occurrence_penalties,
    repetition_penalty,
)
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.decoding.sampling import process_logits, sample
from tfm.refimpl.errors import LimitError
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

many = settings(max_examples=4 * settings.default.max_examples)  # pyright: ignore[reportOptionalOperand]
N = 7
seeds = st.integers(0, 2**32 - 1)
texts = st.lists(st.integers(0, N - 1), max_size=12).map(lambda ids: np.array(ids, np.int64))
bad_words = st.lists(st.lists(st.integers(0, N - 1), min_size=1, max_size=3), max_size=3)
biases = st.dictionaries(st.integers(0, N - 1), st.floats(-9, 9), max_size=3)


def draw(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(N) * 3).astype(np.float32)


def theirs(logits: np.ndarray, text: np.ndarray, *steps: Any) -> np.ndarray:
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    return LogitsProcessorList(steps)(torch.from_numpy(text)[None], scores)[0].numpy()


def same(got: np.ndarray, wanted: np.ndarray) -> None:
    assert (np.isinf(got) == np.isinf(wanted)).all()
    assert got.dtype == np.float32
    kept = np.isfinite(got)
    equal(got[kept], wanted[kept], 1e-6)


@given(seeds, texts, st.sampled_from((0.5, 1.0, 1.3)))
def test_repetition(seed: int, text: np.ndarray, penalty: float):
    logits = draw(seed)
    kept = logits.copy()
    same(
        repetition_penalty(logits, text, penalty),
        theirs(logits, text, RepetitionPenaltyLogitsProcessor(penalty)),
    )
    assert (logits == kept).all()


@many
@given(seeds, texts, st.integers(1, 4))
def test_ngrams(seed: int, text: np.ndarray, n: int):
    logits = draw(seed)
    same(ban_ngrams(logits, text, n), theirs(logits, text, NoRepeatNGramLogitsProcessor(n)))


@given(seeds, biases)
def test_bias(seed: int, bias: dict[int, float]):
    logits = draw(seed)
    ids, amounts = np.array([*bias], np.int64), np.array([*bias.values()], np.float64)
    made = (
        theirs(logits, ids, SequenceBiasLogitsProcessor([[[i], b] for i, b in bias.items()]))
        if bias
        else logits
    )
    same(add_bias(logits, ids, amounts), made)
    twice = add_bias(logits, np.array([2, 2]), np.array([0.25, 0.5]))
    assert (twice - logits)[2] == pytest.approx(0.75, abs=1e-5)


@given(seeds, texts, st.floats(-2, 2), st.floats(-2, 2))
def test_occurrence(seed: int, made: np.ndarray, presence: float, frequency: float):
    logits = draw(seed)
    less = {int(i): presence + frequency * int((made == i).sum()) for i in made}
    wanted = [logits[i] - less.get(i, 0.0) for i in range(N)]
    got = occurrence_penalties(logits, made, presence, frequency)
    same(got, np.array(wanted))
    if less:
        same(got, theirs(logits, made, SequenceBiasLogitsProcessor([[[i], -x] for i, x in less.items()])))


@given(seeds, st.lists(st.integers(0, N - 1), min_size=1, max_size=4))
def test_suppressed(seed: int, ids: list[int]):
    logits, none = draw(seed), np.zeros(0, np.int64)
    same(ban(logits, np.array(ids)), theirs(logits, none, SuppressTokensLogitsProcessor(ids)))


@many
@given(seeds, texts, st.data())
def test_the_chain(seed: int, text: np.ndarray, data: st.DataObject):
    """All of transformers' steps in its order, as its `generate` chains them."""
    logits, new = draw(seed), data.draw(st.integers(0, len(text)))
    some = lambda values: data.draw(st.one_of(st.none(), values))  # noqa: E731
    bias = data.draw(biases)
    sampler = Sampler(
        repetition_penalty=some(st.sampled_from((0.7, 1.4))),
        no_repeat_ngram=some(st.integers(2, 3)),
        min_new_tokens=some(st.integers(0, 5)),
        suppress_tokens=tuple(data.draw(st.lists(st.integers(0, N - 1), max_size=2))),
        begin_suppress_tokens=tuple(data.draw(st.lists(st.integers(0, N - 1), max_size=2))),
        bad_words=tuple(map(tuple, words := data.draw(bad_words))),
        logit_bias=tuple(bias.items()),
    )
    stops = [0, 3]
    steps: list[Any] = []
    if bias:
        steps.append(SequenceBiasLogitsProcessor([[[i], b] for i, b in bias.items()]))
    if sampler.repetition_penalty:
        steps.append(RepetitionPenaltyLogitsProcessor(sampler.repetition_penalty))
    if sampler.no_repeat_ngram:
        steps.append(NoRepeatNGramLogitsProcessor(sampler.no_repeat_ngram))
    if words:
        steps.append(NoBadWordsLogitsProcessor(words))
    if sampler.min_new_tokens:
        steps.append(MinNewTokensLengthLogitsProcessor(len(text) - new, sampler.min_new_tokens, stops))
    if sampler.suppress_tokens:
        steps.append(SuppressTokensLogitsProcessor([*sampler.suppress_tokens]))
    if banned := [*sampler.begin_suppress_tokens]:
        steps.append(SuppressTokensAtBeginLogitsProcessor(banned, len(text) - new))
    wanted = theirs(logits, text, *steps)
    if np.isinf(wanted).all():
        with refused(LimitError, "token", "suppress"):
            process_logits(logits, sampler, text, new, stops)
        return
    assert sampler.adjusts_logits == bool(steps)
    same(adjust_logits(logits, sampler, text, new, stops), wanted)


def test_the_order():
    """Where two steps don't commute, the one that the docstring names first comes first."""
    logits, text = np.array([1.0, -1.0, 0.5], np.float32), np.array([0, 1, 0])
    # Bias before repetition: the sign that counts is the corrected one.
    sampler = Sampler(
        logit_bias=((0, -2.0),), repetition_penalty=2.0, frequency_penalty=0.25, presence_penalty=0.5
    )
    assert adjust_logits(logits, sampler, text, 1).tolist() == [-1 * 2 - 0.75, -2.0, 0.5]
    assert adjust_logits(logits, sampler, text, 0).tolist() == [-2.0, -2.0, 0.5]
    assert adjust_logits(logits, sampler, text, 3).tolist() == [-2 - 0.5 - 0.5, -2 - 0.75, 0.5]
    # A bias doesn't lift a ban, but forcing does.
    sampler = Sampler(suppress_tokens=(2,), logit_bias=((2, 99.0),), forced_tokens=(0, 2))
    assert adjust_logits(logits, sampler, text, 2).tolist() == [1.0, -1.0, -np.inf]
    assert adjust_logits(logits, sampler, text, 1).tolist() == [-np.inf, -np.inf, 0.0]
    assert adjust_logits(logits, sampler, text, 0).tolist() == [0.0, -np.inf, -np.inf]
    # What is banned at the beginning is banned after what is forced there.
    sampler = Sampler(begin_suppress_tokens=(1,), forced_tokens=(0, 2))
    assert [adjust_logits(logits, sampler, text, new)[1] for new in (1, 2, 3)] == [-np.inf, -np.inf, -1.0]
    # A text whose room ends, ends, whatever else is forced or banned.
    sampler = Sampler(forced_tokens=(0,), forced_last=(1, 2), suppress_tokens=(1,))
    assert adjust_logits(logits, sampler, text, 0, last=True).tolist() == [-np.inf, 0.0, 0.0]
    assert adjust_logits(logits, sampler, text, 1, last=False).tolist() == [1.0, -np.inf, 0.5]
    assert all(Sampler(**{name: (1,)}).adjusts_logits for name in ("forced_last", "begin_suppress_tokens"))


@many
@given(seeds, texts, bad_words)
def test_bad_words(seed: int, text: np.ndarray, words: list[list[int]]):
    logits = draw(seed)
    made = theirs(logits, text, NoBadWordsLogitsProcessor(words)) if words else logits
    same(ban_words(logits, text, words), made)
    with refused(LimitError, "bad_words"):
        Sampler(bad_words=((),))


def test_an_end_comes_not_too_early():
    logits, text = np.array([3.0, 2.0, 1.0], np.float32), np.array([1, 1])
    sampler = Sampler(min_new_tokens=2)
    best = [int(process_logits(logits, sampler, text, new, (0, 1)).argmax()) for new in range(4)]
    assert best == [2, 2, 0, 0]
    assert sampler.adjusts_logits
    assert not Sampler(temperature=1.0, top_k=3).adjusts_logits


def test_penalties_come_before_the_filters():
    """A token that was there loses its lead before top-k looks, greedy or not."""
    logits, seen = np.array([2.0, 1.5, -1.0], np.float32), np.array([0, 0, 2])
    assert repetition_penalty(logits, seen, 2.0).tolist() == [1.0, 1.5, -2.0]
    draw = lambda sampler: sample(process_logits(logits, sampler, seen), sampler, 0.99)  # noqa: E731
    assert draw(Sampler(repetition_penalty=2.0)) == 1
    assert draw(Sampler(temperature=1.0, top_k=1, repetition_penalty=2.0)) == 1
    assert draw(Sampler(temperature=1.0, top_k=1)) == 0


def test_ids_outside_the_vocabulary_are_refused():
    logits = np.zeros(3, np.float32)
    with refused(LimitError, "ids", 0, 2, 1, 3):
        ban(logits, np.array([1, 3]))
    with refused(LimitError, "ids", 0, 2, "-1", "-1"):
        force(logits, np.array([-1]))
    with refused(LimitError, "ids", 0, 2):
        add_bias(logits, np.array([3]), np.array([1.0]))
