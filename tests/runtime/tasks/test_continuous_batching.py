"""Rows that share a batch are what they are alone, whenever they join and whoever leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import tiny_models
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import LimitError
from tfm.runtime.tasks.continuous_batching import Batch, Row

CONFIG = tiny_models.llama(context=40)
NUMPY = NumpyEngine(CONFIG, tiny_models.weights(CONFIG, seed=4))
PROMPTS = st.lists(st.lists(st.integers(0, 96), min_size=1, max_size=39), min_size=1, max_size=7)
SAMPLERS = st.sampled_from([Sampler(), Sampler(temperature=2.0), Sampler(repetition_penalty=1.5)])


def alone(engine: Any, row: GeneratedSequence, stop: int | None) -> list[int]:
    """A row's tokens by itself; `stop` ends it as a reader does who has seen so many."""
    made = []
    for token in generate(engine, row, chunk=5):
        made.append(token)
        if len(made) == stop:
            row.finish("stop")
    return made


def check(engine: Any, prompts: list[list[int]], sampler: Sampler, size: int, new: int, seed: int) -> None:
    """All rows in a batch and each by itself: the same tokens, and the same end."""
    ends = frozenset(range(0, 97, 9))
    stops = [None if len(prompt) % 3 else 3 for prompt in prompts]

    def rows() -> list[GeneratedSequence]:
        return [GeneratedSequence(prompt, sampler, ends, new, seed, i) for i, prompt in enumerate(prompts)]

    want = rows()
    for row, stop in zip(want, stops, strict=True):
        alone(engine, row, stop)
    got, seen = rows(), [[] for _ in prompts]
    for row, token, *_ in Batch(engine, chunk=5).run([*map(Row, got)], size):
        row = row.sequence
        running = {r.index for r in got if seen[r.index] and r.finish_reason is None}
        assert len(running | {row.index}) <= size
        seen[row.index].append(token)
        if len(seen[row.index]) == stops[row.index]:
            row.finish("stop")
    for mine, theirs, told in zip(got, want, seen, strict=True):
        assert (mine.tokens, mine.finish_reason) == (theirs.tokens, theirs.finish_reason)
        assert [token for token in told if token is not None] == mine.tokens


@given(PROMPTS, SAMPLERS, st.integers(1, 4), st.integers(1, 9), st.integers(0, 99))
def test_rows_are_as_alone(prompts, sampler, size, new, seed) -> None:
    check(NUMPY, prompts, sampler, size, new, seed)


def test_rows_are_as_alone_on_every_engine(engines: list[Any]) -> None:
    rng = np.random.default_rng(8)
    for engine in engines:
        for size, sampler in ((3, Sampler()), (2, Sampler(temperature=1.5)), (8, Sampler())):
            lengths = rng.integers(1, 39, 8)
            prompts = [rng.integers(0, 97, length).tolist() for length in lengths]
            check(engine, prompts, sampler, size, int(rng.integers(2, 12)), 3)


def test_what_is_refused() -> None:
    assert list(Batch(NUMPY).run([], 4)) == []
    with refused(LimitError, "batch", 0):
        list(Batch(NUMPY).run([Row(GeneratedSequence([1]))], 0))
    with refused(LimitError, "text", 2, 40, "tokens", "context"):
        next(Batch(NUMPY).run([*map(Row, (GeneratedSequence([1]), GeneratedSequence([1] * 40)))], 2))
