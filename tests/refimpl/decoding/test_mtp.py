"""Drafts of a model's module change no token, and are those that the module makes of the whole text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from helpers.drained import drained
from helpers.modules import cycle, cycling
from helpers.refused import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.refimpl.config import Decoder
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.decoding.mtp import MTPDrafter
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.decoding.speculative import speculate
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ConfigError, LimitError, NumericError

seeds = st.integers(0, 2**32 - 1)


def engine(config: Decoder, seed: int = 0) -> NumpyEngine:
    return NumpyEngine(config, tiny_models.weights(config, seed, np.float64))


def free(tokens: int) -> float:
    """Drafts that cost nothing are as long as they may be."""
    return 1.0


def drafted(model: NumpyEngine, text: list[int], row: GeneratedSequence, count: int) -> list[int]:
    """What the module drafts after a text, everything computed at once, without a cache."""
    _, hidden, _ = model.step_with_hidden(np.array([text[:-1]]), model.start(1))
    tokens, draft = text[1:], []
    while len(draft) < count:
        logits, own, _ = model.step_mtp(np.array([tokens]), hidden, model.start_mtp())
        draft.append(row.choose(logits[0, -1], draft))
        if draft[-1] in row.stop_ids:
            break
        hidden, tokens = np.concatenate([hidden, own[:, -1:]], 1), [*tokens, draft[-1]]
    return draft


@settings(max_examples=12)
@given(
    st.sampled_from(("attention", "latents", "deltas", "apart")),
    seeds,
    st.sampled_from((Sampler(), Sampler(temperature=1.0, top_k=3), Sampler(temperature=0.4))),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_the_text_is_the_one_without_drafts(
    name: str, seed: int, sampler: Sampler, count: int, chunk: int, steps: int
):
    """Over kinds of layers, options, lengths of drafts and chunks; each draft is that of the whole text, and
    the cache holds what was written."""
    config = tiny_models.MODULES[name]()
    model = engine(config, seed)
    prompt = np.random.default_rng(seed).integers(0, 97, 7).tolist()
    row, wanted = (GeneratedSequence(prompt, sampler, frozenset({5}), steps, seed % 1000) for _ in range(2))
    drafter = MTPDrafter(model, count, cost=free)
    proposed = drafter.propose

    def propose(sequence: GeneratedSequence, most: int) -> list[int]:
        draft = proposed(sequence, most)
        text = [*prompt, *sequence.tokens]
        assert draft == drafted(model, text, sequence, min(most, count))
        return draft

    drafter.propose = propose
    made, cache = drained(speculate(drafter, row, drafter, count, chunk=chunk))
    assert made == list(generate(model, wanted, chunk=chunk))
    assert row.finish_reason == wanted.finish_reason
    text = [*prompt, *made]
    length = int(cache.lengths[0])
    assert len(text) - 1 <= length <= len(text)
    probe = np.array([[11]])
    after = model.step(probe, model.step(np.array([text[:length]]), model.start(1))[1])[0]
    np.testing.assert_allclose(model.step(probe, cache)[0], after, atol=1e-9)


class Counting:
    """An engine that counts its steps."""

    def __init__(self, model: NumpyEngine) -> None:
        self.model, self.steps = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def step_with_hidden(self, *arguments: Any, **more: Any) -> Any:
        self.steps += 1
        return self.model.step_with_hidden(*arguments, **more)


@pytest.mark.parametrize("temperature", [None, 0.01])
def test_a_module_that_is_right_saves_steps(temperature: float | None):
    """Its model goes round a cycle of tokens, and so does it: three tokens a step."""
    model: Any = Counting(NumpyEngine(*cycling(np.float64)))
    row = GeneratedSequence([3, cycle(3)], Sampler(temperature=temperature), max_new_tokens=13)
    drafter = MTPDrafter(model, 2, free)
    made = list(speculate(drafter, row, drafter))
    expected = [cycle(cycle(3))]
    while len(expected) < 13:
        expected.append(cycle(expected[-1]))
    assert made == expected
    assert model.steps == 1 + 12 // 3
    assert (drafter.proposed, drafter.accepted) == (6, 6), "the last draft isn't asked about again"


def test_drafts_are_as_long_as_they_pay():
    """Of a module that is wrong nearly none are made, and they come back when it is right."""

    class Wavering(Counting):
        wrong = True

        def step_mtp(self, *arguments: Any) -> Any:
            logits, *rest = self.model.step_mtp(*arguments)
            return (np.roll(logits, 1, axis=-1) if self.wrong else logits, *rest)

    model: Any = Wavering(NumpyEngine(*cycling(np.float64)))
    row = GeneratedSequence([3, cycle(3)], max_new_tokens=120)
    drafter = MTPDrafter(model, cost=lambda tokens: 1 + 0.1 * (tokens - 1))
    lengths: list[int] = []
    proposed = drafter.propose

    def propose(sequence: GeneratedSequence, most: int) -> list[int]:
        model.wrong = len(sequence.tokens) < 60
        draft = proposed(sequence, most)
        lengths.append(len(draft))
        return draft

    drafter.propose = propose
    drive = speculate(drafter, row, drafter)
    made = list(drive)
    assert all(after == cycle(before) for before, after in zip([cycle(3), *made], made, strict=False))
    assert len(made) == 120
    first = lengths.index(0)
    assert 1 <= first <= 6
    assert lengths[first : first + 16] == [*[0] * 7, 1] * 2, "where none pays, one is tried each eighth step"
    assert drafter.accepted > 40
    assert max(lengths[:58]) <= 2
    assert lengths[-6:-2] == [4] * 4
    before = len(lengths)
    list(speculate(drafter, GeneratedSequence([5], max_new_tokens=9), drafter))
    assert lengths[before] == 2, "another text begins anew"


def test_another_text_and_a_cached_beginning():
    """One drafter for several texts; what was in the cache before is missing for the module alone."""
    model = engine(tiny_models.MODULES["attention"]())
    drafter = MTPDrafter(model, cost=free)
    for prompt, cached in (([1, 2, 3, 4], 0), ([9, 8, 7, 6, 5], 0), ([1, 2, 3, 4, 5, 6], 4)):
        row, wanted = (GeneratedSequence(prompt, max_new_tokens=6) for _ in range(2))
        cache = model.start(1)
        if cached:
            _, cache = model.step(np.array([prompt[:cached]]), cache)
        assert list(speculate(drafter, row, drafter, cache=cache)) == list(generate(model, wanted))
    assert drafter.proposed > 0


def test_a_module_that_cannot_compute_a_text_drafts_no_more():
    """The text goes on, as if there were no drafts."""

    class Narrow(Counting):
        def step_mtp(self, *arguments: Any) -> Any:
            self.steps += 1
            if self.steps > 4:
                raise NumericError("doesn't fit")
            return self.model.step_mtp(*arguments)

    model: Any = Narrow(engine(tiny_models.MODULES["latents"]()))
    row, wanted = (GeneratedSequence([1, 2, 3], max_new_tokens=9) for _ in range(2))
    drafter = MTPDrafter(model, cost=free)
    assert list(speculate(drafter, row, drafter)) == list(generate(model.model, wanted))
    before = drafter.proposed
    assert drafter.propose(row, 2) == []
    assert drafter.proposed == before


def test_what_it_is_not_for_is_refused():
    model = engine(tiny_models.MODULES["attention"]())
    with refused(LimitError, "draft", 2):
        MTPDrafter(model).step(np.zeros((2, 1), np.int64), model.start(2))
    with refused(ConfigError, "multi-token", "prediction"):
        MTPDrafter(engine(replace(model.config, mtp=None)))
