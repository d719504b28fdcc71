"""The generation loop: stop tokens, room, seeds, chunks, and a cache that holds a prefix."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny_models
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.decoding.loop import GeneratedSequence, generate, prefill
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.decoding.stop import limit_new_tokens
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import LimitError

CONFIG = tiny_models.llama(context=24)
ENGINE = NumpyEngine(CONFIG, tiny_models.weights(CONFIG))
PROMPT = [5, 17, 80, 3]
HOT = Sampler(temperature=2.0)


def run(row: GeneratedSequence, **given_: object) -> list[int]:
    return list(generate(ENGINE, row, **given_))


def uncached(prompt: list[int], count: int) -> list[int]:
    """Greedy tokens with the whole text read again for each."""
    text = list(prompt)
    for _ in range(count):
        logits, _ = ENGINE.step(np.array([text]), ENGINE.start(1))
        text.append(int(np.argmax(logits[0, 0])))
    return text[len(prompt) :]


def test_greedy_is_the_same_with_and_without_a_cache():
    row = GeneratedSequence(PROMPT, max_new_tokens=8)
    assert run(row) == uncached(PROMPT, 8)
    assert row.tokens == uncached(PROMPT, 8)
    assert row.finish_reason == "length"


@given(st.integers(1, 6))
def test_chunks_change_nothing(chunk: int):
    assert run(GeneratedSequence(PROMPT, max_new_tokens=4), chunk=chunk) == uncached(PROMPT, 4)


@given(st.integers(0, 3))
def test_a_cache_may_hold_a_prefix(held: int):
    cache = ENGINE.start(1)
    if held:
        _, cache = ENGINE.step(np.array([PROMPT[:held]]), cache)
    assert run(GeneratedSequence(PROMPT, max_new_tokens=4), cache=cache) == uncached(PROMPT, 4)


def test_a_cache_that_holds_all_is_refused():
    _, cache = ENGINE.step(np.array([PROMPT]), ENGINE.start(1))
    with refused(LimitError, "prompt", 4, 4):
        run(GeneratedSequence(PROMPT), cache=cache)


def test_a_seed_gives_the_same_text_again():
    texts = [
        run(GeneratedSequence(PROMPT, HOT, seed=s, index=r)) for s, r in ((1, 0), (1, 0), (2, 0), (1, 1))
    ]
    assert texts[0] == texts[1]
    assert len({tuple(t) for t in texts}) == 3


def test_one_uniform_number_a_token():
    """(seed, index) seeds the sequence's own numbers: texts don't depend on neighbours."""
    row, logits = GeneratedSequence(PROMPT, HOT, seed=3, index=2), np.zeros(97, np.float32)
    us = np.random.default_rng([3, 2]).random(5)
    assert [row.sample(logits) for _ in range(5)] == [int(u * 97) for u in us]


def test_a_stop_token_ends_and_is_not_kept():
    tokens = run(GeneratedSequence(PROMPT, HOT, max_new_tokens=8))
    at = next(i for i in range(3, 8) if tokens[i] not in tokens[:i])
    row = GeneratedSequence(PROMPT, HOT, stop_ids=frozenset({tokens[at]}), max_new_tokens=8)
    assert run(row) == tokens[:at]
    assert row.tokens == tokens[:at]
    assert row.finish_reason == "stop"


def test_the_last_token_that_is_allowed_may_be_forced():
    free = [*generate(ENGINE, GeneratedSequence([3, 4], Sampler(), max_new_tokens=4))]
    last = (free[3] + 1) % CONFIG.embedding.vocabulary
    forced = [*generate(ENGINE, GeneratedSequence([3, 4], Sampler(forced_last=(last,)), max_new_tokens=4))]
    assert forced == [*free[:3], last]


def test_the_reader_may_end_it():
    row, found = GeneratedSequence(PROMPT, max_new_tokens=8), []
    for token in generate(ENGINE, row):
        found.append(token)
        if len(found) == 2:
            row.finish("stop")
    assert len(found) == 2
    assert row.finish_reason == "stop"


def test_the_cache_comes_back():
    """All but the last token are in it: that one was never read."""
    steps = generate(ENGINE, GeneratedSequence(PROMPT, max_new_tokens=3))
    for _ in range(3):
        next(steps)
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value.lengths.tolist() == [len(PROMPT) + 2]


def test_the_penalty_sees_prompt_and_answer():
    row = GeneratedSequence([0], Sampler(repetition_penalty=1000.0))
    logits = np.full(97, 1.0, np.float32)
    assert [row.sample(logits) for _ in range(3)] == [1, 2, 3]


@given(st.integers(1, 23), st.integers(1, 40))
def test_output_is_clipped_to_the_room_left(prompt: int, wanted: int):
    assert limit_new_tokens(CONFIG, prompt, wanted) == min(wanted, 24 - prompt)


def test_the_context_is_filled_to_the_end():
    row = GeneratedSequence([1] * 20, max_new_tokens=100)
    assert len(run(row)) == 4
    assert (row.max_new_tokens, row.finish_reason) == (4, "length")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [(0, "prompt none"), (24, "prompt 24 context 24"), (99, "prompt 99 context 24")],
)
def test_a_prompt_that_does_not_fit_is_refused(prompt: int, words: str):
    with refused(LimitError, *words.split()):
        run(GeneratedSequence([1] * prompt))


def test_nothing_wanted_gives_nothing():
    row = GeneratedSequence(PROMPT, max_new_tokens=0)
    assert run(row) == []
    assert row.finish_reason == "length"


def test_prefill_is_the_last_token():
    logits, cache = prefill(ENGINE, PROMPT, ENGINE.start(1), chunk=3)
    wanted, _ = ENGINE.step(np.array([PROMPT]), ENGINE.start(1))
    assert np.abs(logits - wanted[0, 0]).max() < 1e-5
    assert cache.lengths.tolist() == [4]
