"""Speculative decoding keeps the distribution: summed exactly over all draft outcomes, and on samples.

transformers' speculative sampling draws its own random numbers, so it can't be compared draw by draw;
the oracle is the distribution of the same model decoded token by token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.decoding import loop, speculative
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.decoding.sampling import probabilities
from tfm.refimpl.decoding.speculative import Draft, DraftModel, PromptLookup, accepts, residual, speculate
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import LimitError

seeds = st.integers(0, 2**32 - 1)


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


class Paths:
    """Runs a program of random choices along each of its paths, with the path's probability."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, list[int]]] = []

    def choose(self, p: np.ndarray) -> int:
        if self.at == len(self.taken):
            first, *rest = np.flatnonzero(p).tolist()
            self.taken.append((first, rest))
        self.at += 1
        choice = self.taken[self.at - 1][0]
        self.weight *= p[choice]
        return choice

    def each(self, program: Callable[[], Any]) -> Iterator[tuple[Any, float]]:
        while True:
            self.at, self.weight = 0, 1.0
            yield program(), self.weight
            while self.taken and not self.taken[-1][1]:
                self.taken.pop()
            if not self.taken:
                return
            following, *rest = self.taken.pop()[1]
            self.taken.append((following, rest))


def distribution(
    monkeypatch: pytest.MonkeyPatch, program: Callable[[], GeneratedSequence]
) -> dict[tuple[Any, ...], float]:
    """The exact probability of each text that a driver can make: every draw of it becomes a choice."""
    paths = Paths()

    def accept(p: np.ndarray, q: np.ndarray | None, token: int, u: float) -> bool:
        share = min(p[token] / (1.0 if q is None else q[token]), 1.0)
        return bool(paths.choose(np.array([1 - share, share])))

    with monkeypatch.context() as patch:
        patch.setattr(loop, "sample", lambda logits, sampler, u: paths.choose(probabilities(logits, sampler)))
        patch.setattr(speculative, "draw", lambda p, u: paths.choose(p))
        patch.setattr(speculative, "accepts", accept)
        found: dict[tuple[Any, ...], float] = defaultdict(float)
        for row, weight in paths.each(program):
            found[*row.tokens, row.finish_reason] += weight
    return found


class Fixed:
    """Proposes the same tokens always, certain of them."""

    def propose(self, row: GeneratedSequence, count: int) -> Draft:
        return Draft([0, 1, 1][:count], [None] * min(count, 3))


SAMPLERS = (
    Sampler(temperature=1.0),
    Sampler(temperature=0.7, top_k=2, repetition_penalty=1.5, frequency_penalty=0.5),
    Sampler(temperature=2.0, top_p=0.8, no_repeat_ngram=3, min_new_tokens=2),
    Sampler(temperature=1.5, typical_p=0.7, logit_bias=((1, 1.0),)),
)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", ["model", "lookup", "fixed"])
def test_the_distribution_is_kept_exactly(
    kind: str, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum over all drafts, acceptances and draws is the distribution of one token after the other."""
    for seed in range(3):
        target, other, prompt = Table(seed), Table(seed + 100), [1, 2, 0, 1]
        stops = frozenset({2} if seed else ())

        def row(stops: frozenset[int] = stops, prompt: list[int] = prompt) -> GeneratedSequence:
            return GeneratedSequence(prompt, sampler, stops, 4)

        def plain(target: Table = target, row: Callable[[], GeneratedSequence] = row) -> GeneratedSequence:
            made = row()
            list(generate(target, made))
            return made

        def drafted(
            target: Table = target, other: Table = other, row: Callable[[], GeneratedSequence] = row
        ) -> GeneratedSequence:
            drafter = {"model": DraftModel(other, target), "lookup": PromptLookup(), "fixed": Fixed()}[kind]
            made = row()
            list(speculate(target, made, drafter, draft_length=2))
            return made

        wanted, got = (distribution(monkeypatch, program) for program in (plain, drafted))
        assert sum(wanted.values()) == pytest.approx(1, abs=1e-12)
        assert wanted.keys() == {text for text, p in got.items() if p > 1e-15}
        equal([got[text] for text in wanted], list(wanted.values()), 1e-12)


@given(seeds, st.integers(2, 6))
def test_accepted_or_drawn_anew_is_the_models_own(seed: int, n: int):
    """Σ over the draft's tokens of accepting plus drawing from the residual is p, zeros included."""
    rng = np.random.default_rng(seed)
    p, q = (
        np.where(rng.random(n) < 0.7, rng.random(n), 0) + 1e-3 * np.eye(n)[rng.integers(n)] for _ in range(2)
    )
    p, q = p / p.sum(), q / q.sum()
    for given_q, chances in ((q, q), *((None, np.eye(n)[i]) for i in range(n))):
        made = np.zeros(n)
        for token in np.flatnonzero(chances):
            share = min(p[token] / chances[token], 1.0)
            made[token] += chances[token] * share
            if share < 1:
                made += chances[token] * (1 - share) * residual(p, given_q, token)
            assert accepts(p, given_q, token, share * (1 - 1e-9)) == (share > 0)
            assert share == 1 or not accepts(p, given_q, token, share * (1 + 1e-9))
        equal(made, p, 1e-12)
    equal(residual(p, p, 0), p)


def test_samples_have_the_distribution() -> None:
    """Chi-square over all texts of three tokens drawn with the rows' numbers: below its 0.999 quantile."""
    target, draft, sampler, count = Table(5), Table(6), Sampler(temperature=3.0), 4000
    expected = np.zeros((3, 3, 3))
    table = [[probabilities(target.logits[a, b], sampler) for b in range(3)] for a in range(3)]
    for a, b, c in np.ndindex(3, 3, 3):
        expected[a, b, c] = table[1][2][a] * table[2][a][b] * table[a][b][c]
    seen, drafter = np.zeros((3, 3, 3)), DraftModel(draft, target)
    for i in range(count):
        row = GeneratedSequence([1, 2], sampler, max_new_tokens=3, seed=11, index=i)
        assert list(speculate(target, row, drafter, draft_length=2)) == row.tokens
        seen[tuple(row.tokens)] += 1
    chi_square = ((seen - count * expected) ** 2 / (count * expected)).sum()
    assert expected.min() * count > 5
    assert chi_square < 54.05  # 26 degrees of freedom


@given(seeds, st.sampled_from(("model", "itself", "lookup")), st.integers(1, 5), st.integers(1, 20))
def test_greedy_is_greedy(seed: int, kind: str, draft_length: int, steps: int):
    target, other = Table(seed, n=7), Table(seed + 1, n=7)
    row, wanted = (
        GeneratedSequence([3, 1, 4, 1], stop_ids=frozenset({5}), max_new_tokens=steps) for _ in range(2)
    )
    drafter = {
        "model": DraftModel(other, target),
        "itself": DraftModel(Table(seed, n=7), target),
        "lookup": PromptLookup(),
    }[kind]
    drive, made = speculate(target, row, drafter, draft_length), []
    while True:
        try:
            made.append(next(drive))
        except StopIteration as end:
            cache = end.value
            break
    assert made == list(generate(Table(seed, n=7), wanted))
    assert (row.tokens, row.finish_reason) == (wanted.tokens, wanted.finish_reason)
    assert cache.text == [*row.prompt, *row.tokens][: len(cache.text)]
    assert len(cache.text) >= len(row.prompt) + len(row.tokens) - 1
    if kind == "itself" and row.finish_reason == "length":
        assert target.steps == 1 + -(-(steps - 1) // (draft_length + 1))


def test_a_draft_of_the_model_itself_is_always_accepted() -> None:
    """Penalties and bans look at the same text in draft and model, so p = q, and steps are the fewest."""
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
        draft = PromptLookup(max_ngram).propose(GeneratedSequence(text[:2], tokens=text[2:]), count)
        assert draft.probabilities == [None] * len(draft.tokens)
        return draft.tokens

    assert proposed([1, 2, 3, 9, 1, 2, 3], 2) == [9, 1]
    assert proposed([1, 2, 3, 9, 1, 2, 3], 9) == [9, 1, 2, 3]
    assert proposed([2, 3, 5, 1, 3, 6, 2, 3], 1) == [5]  # two tokens that agree before one that is later
    assert proposed([2, 3, 5, 1, 3, 6, 2, 3], 1, max_ngram=1) == [6]
    assert proposed([7, 7], 3) == [7]
    assert proposed([1, 2, 3], 3) == []
    assert proposed([1, 2], 3) == []


def test_a_draft_model_reads_only_what_is_new() -> None:
    target, draft = Table(0, n=5), Table(1, n=5)
    drafter, row = DraftModel(draft, target), GeneratedSequence([1, 2, 3], max_new_tokens=12)
    list(speculate(target, row, drafter, draft_length=3))
    assert drafter._cached_tokens == drafter._cache.text
    again = GeneratedSequence([1, 2, 4], max_new_tokens=5)
    assert list(speculate(target, again, drafter, draft_length=3)) == list(
        generate(target, GeneratedSequence([1, 2, 4], max_new_tokens=5))
    )
    with pytest.raises(LimitError, match="must have the model's vocabulary of 5, it has 4"):
        DraftModel(Table(0, n=4), target)


def test_all_engines_agree(engines: list[Any]) -> None:
    """Speculation cuts caches back on each engine: greedy and sampled texts are those of NumPy."""
    prompt = [5, 17, 8, 3, 5, 17]
    for sampler in (Sampler(), Sampler(temperature=1.0, top_k=5)):
        for drafter in (lambda engine: PromptLookup(), lambda engine: DraftModel(engines[0], engine)):
            texts = [GeneratedSequence(prompt, sampler, max_new_tokens=30) for _ in engines]
            for engine, row in zip(engines, texts, strict=True):
                assert len(list(speculate(engine, row, drafter(engine), draft_length=3))) == 30
            assert all(row.tokens == texts[0].tokens for row in texts[1:])
            if sampler.greedy:
                assert (
                    list(generate(engines[0], GeneratedSequence(prompt, max_new_tokens=30)))
                    == texts[0].tokens
                )


def test_a_recurrence_takes_no_draft_but_may_draft() -> None:
    """Its state can't go back over a rejected token; as a draft model it reads the text again."""
    config = tiny_models.recurrent()
    recurrence = NumpyEngine(config, tiny_models.weights(config))
    with pytest.raises(LimitError, match="recurrence's state can't: leave out draft"):
        next(speculate(recurrence, GeneratedSequence([1, 2], max_new_tokens=3), PromptLookup()))
    target = NumpyEngine(tiny_models.llama(), tiny_models.weights(tiny_models.llama()))
    row = GeneratedSequence([5, 17], max_new_tokens=9)
    assert list(speculate(target, row, DraftModel(recurrence, target), draft_length=3)) == list(
        generate(target, GeneratedSequence([5, 17], max_new_tokens=9))
    )
