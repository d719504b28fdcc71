"""Texts that join and leave a batch at any step are what they are alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.refimpl.config import Decoder
from tfm.refimpl.decoding.logprobs import TokenLogprob, token_logprob
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import LimitError, NumericError
from tfm.runtime.tasks.continuous_batching import Batch, Row
from tfm.runtime.tasks.prefixes import Prefixes
from tfm.runtime.tasks.timed_engine import TimedEngine

CONFIG = tiny_models.llama(context=40)
NUMPY = NumpyEngine(CONFIG, tiny_models.weights(CONFIG, seed=4))
PROMPT = st.lists(st.integers(0, 96), min_size=1, max_size=30)
SAMPLERS = (Sampler(), Sampler(temperature=2.0), Sampler(repetition_penalty=1.5))
# A text: its prompt, its sampler, after how many steps it joins, and after how many tokens it is cancelled.
TEXTS = st.lists(
    st.tuples(PROMPT, st.sampled_from(SAMPLERS), st.integers(0, 6), st.one_of(st.none(), st.integers(0, 4))),
    min_size=1,
    max_size=6,
)
Text = tuple[list[int], Sampler, int, int | None]


def sequence(text: Text, index: int) -> GeneratedSequence:
    return GeneratedSequence(text[0], text[1], frozenset(range(0, 97, 9)), 8, 5, index, logprobs=2)


def check(engine: Any, texts: list[Text], chunk: int) -> None:
    """Each text alone, and with the others: the same tokens and log-probabilities, as far as it got."""
    alone = [sequence(text, i) for i, text in enumerate(texts)]
    for one in alone:
        list(generate(engine, one))
    batch = Batch(engine, chunk)
    together = [sequence(text, i) for i, text in enumerate(texts)]
    step, joined = 0, set()
    while len(joined) < len(texts) or any(one.finish_reason is None for one in together):
        joining = [one for one, text in zip(together, texts, strict=True) if text[2] == step]
        joined |= {one.index for one in joining}
        for outcome in batch.step([*map(Row, joining)]):
            assert outcome.error is None
            assert outcome.sequence.index in joined
        for one, (_, _, begin, cancelled) in zip(together, texts, strict=True):
            until = 99 if cancelled is None else cancelled
            if begin <= step and one.finish_reason is None and len(one.tokens) >= until:
                one.finish()
        step += 1
    list(batch.step())
    assert not batch._rows
    for one, expected, (*_, cancelled) in zip(together, alone, texts, strict=True):
        if cancelled is None:
            assert (one.tokens, one.finish_reason) == (expected.tokens, expected.finish_reason)
        else:  # a step gives up to two tokens: the prompt's and the next
            assert one.tokens == expected.tokens[: len(one.tokens)]
            assert len(one.tokens) <= cancelled + 2
        for mine, theirs in zip(one.token_logprobs, expected.token_logprobs, strict=False):
            np.testing.assert_allclose(mine.logprob, theirs.logprob, rtol=1e-4, atol=1e-5)


@given(TEXTS, st.integers(1, 9))
def test_a_text_is_as_alone(texts: list[Text], chunk: int) -> None:
    check(NUMPY, texts, chunk)


def drawn(seed: int, count: int = 7) -> list[Text]:
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, 97, rng.integers(1, 30)).tolist(), SAMPLERS[i % 3], int(rng.integers(0, 7)),
         [None, None, 2][int(rng.integers(3))])
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.long
def test_a_text_is_as_alone_on_every_engine(engines: list[Any]) -> None:
    for engine in engines:
        check(engine, drawn(1), chunk=5)


@pytest.mark.parametrize(
    "config",
    [
        getattr(tiny_models, name)
        for name in ("mixed_windows", "recurrent", "convolutions", "latents", "indexed")
    ],
)
def test_a_text_is_as_alone_with_any_kind_of_cache(config: Any) -> None:
    made = config(context=40)
    check(NumpyEngine(made, tiny_models.weights(made, seed=4)), drawn(4), 5)


# Prompts that begin alike, each with an owner; the middle of a text may be the beginning of another.
ALIKE = st.lists(
    st.tuples(
        st.builds(
            lambda length, rest: [*range(40, 40 + length), *rest],
            st.integers(0, 16),
            st.lists(st.integers(0, 96), min_size=1, max_size=8),
        ),
        st.sampled_from(SAMPLERS),
        st.sampled_from(["a", "b"]),
    ),
    min_size=2,
    max_size=8,
)


def check_prefixes(engine: Any, texts: list[Any], chunk: int, prefixes: Prefixes, rows: int) -> None:
    """Texts that go on from earlier ones, `rows` at a time: each is as alone."""
    batch, waiting, running = Batch(engine, chunk, prefixes), list(enumerate(texts)), []
    while waiting or running:
        joining = [waiting.pop(0) for _ in range(min(rows - len(running), len(waiting)))]
        made = [sequence((*text[:2], 0, None), i) for i, text in joining]
        running += [(one, text) for one, (_, text) in zip(made, joining, strict=True)]
        for outcome in batch.step([Row(one, text[2]) for one, (_, text) in zip(made, joining, strict=True)]):
            assert outcome.error is None
        for one, text in running:
            if one.finish_reason is not None:
                alone = sequence((*text[:2], 0, None), one.index)
                list(generate(engine, alone, chunk=chunk))
                assert (one.tokens, one.finish_reason) == (alone.tokens, alone.finish_reason)
        running = [(one, text) for one, text in running if one.finish_reason is None]
    list(batch.step())


@settings(max_examples=20)
@given(ALIKE, st.integers(1, 5), st.integers(1, 3), st.booleans())
def test_a_prompt_that_begins_like_another_is_as_alone(
    texts: list[Any], chunk: int, rows: int, whole: bool
) -> None:
    check_prefixes(NUMPY, texts, chunk, Prefixes(2**20, None if whole else chunk), rows)


@pytest.mark.parametrize(
    "config", [tiny_models.mixed_windows, tiny_models.recurrent, tiny_models.convolutions]
)
def test_a_prompt_that_begins_like_another_is_as_alone_with_any_kind_of_cache(config: Any) -> None:
    made = config(context=40)
    engine = NumpyEngine(made, tiny_models.weights(made, seed=4))
    prefixes, conversation, read = Prefixes(2**20), [5, 3, 8], 0
    for turn in range(3):  # each reads what the one before has in its cache, but not its last token
        check_prefixes(engine, [(conversation, SAMPLERS[0], "")], 3, prefixes, 1)
        assert prefixes.tokens == read
        answer = sequence((conversation, SAMPLERS[0], 0, None), 0)
        tokens = [*generate(engine, answer)]
        read = prefixes.tokens + len(conversation) + len(tokens) - (answer.finish_reason == "length")
        conversation = [*conversation, *tokens, turn]
    alike = [([*range(12), i, i][: 13 + i % 2], SAMPLERS[i % 3], "") for i in range(6)]
    check_prefixes(engine, alike, 3, Prefixes(2**20), 3)


def test_texts_that_begin_alike_read_that_once() -> None:
    """Also while none of them has ended: prompts of 30 tokens, 28 of them the same."""

    class Counted(NumpyEngine):
        read = 0

        def step(self, tokens: Any, cache: Any, lengths: Any = None, at: Any = None) -> Any:
            self.read += tokens.shape[1] if tokens.shape[1] > 1 else 0
            return super().step(tokens, cache, lengths, at)

    def rows(owners: str) -> list[Row]:
        prompts = [[*range(28), i, i] for i in range(4)]
        return [
            Row(GeneratedSequence(prompt, max_new_tokens=4), owner)
            for prompt, owner in zip(prompts, owners, strict=True)
        ]

    for owners, chunk, whole, expected in (
        ("aaaa", 7, True, 30 + 3 * 2),
        ("abab", 7, True, 2 * (30 + 2)),
        ("aaaa", 7, False, 30 + 3 * 2),
        ("aaaa", 16, False, 30 + 3 * 14),
    ):
        engine = Counted(CONFIG, tiny_models.weights(CONFIG, seed=4))
        prefixes = Prefixes(2**20, None if whole else chunk)
        made = rows(owners)
        for _ in Batch(engine, chunk, prefixes).run(made, 4):
            pass
        assert (engine.read, prefixes.tokens) == (expected, 4 * 30 - expected)
        for row in made:
            alone = GeneratedSequence(row.sequence.prompt, max_new_tokens=4)
            assert row.sequence.tokens == list(generate(NUMPY, alone))


def test_what_an_encoder_read_joins_when_no_text_runs() -> None:
    config = tiny_models.encoder_decoder()
    engine = NumpyEngine(config, tiny_models.weights(config, seed=4))

    def row(length: int) -> Row:
        source = [*range(1, 1 + length)]
        return Row(GeneratedSequence([0] * (length % 3 + 1), max_new_tokens=3, encoder_ids=source))

    prefixes, made = Prefixes(), [row(length) for length in (5, 9, 2, 7)]
    batch = Batch(engine, prefixes=prefixes)
    list(batch.step(made[:2]))
    assert not batch.takes(made[2])
    while batch.running:
        list(batch.step())
    assert batch.takes(made[2])
    list(batch.step(made[2:]))
    while batch.running:
        list(batch.step())
    for one in made:
        sequence = one.sequence
        alone = GeneratedSequence(sequence.prompt, max_new_tokens=3, encoder_ids=sequence.encoder_ids)
        assert sequence.tokens == list(generate(engine, alone))
    assert (prefixes.tokens, prefixes.nbytes) == (0, 0)  # their prompts alike, they read other texts


def test_what_is_shared_and_with_whom() -> None:
    """Whole chunks of a prompt, or all tokens of a text, with their owner; an error's row with nobody."""
    prompt = [*range(20)]
    for chunk, expected in ((None, 19), (8, 16)):
        prefixes = Prefixes(2**20, chunk)
        check_prefixes(NUMPY, [(prompt, SAMPLERS[0], "a")] * 2, 8, prefixes, 1)
        assert prefixes.tokens == expected
        check_prefixes(NUMPY, [(prompt, SAMPLERS[0], "b")], 8, prefixes, 1)
        assert prefixes.tokens == expected
        answer = sequence((prompt, SAMPLERS[0], 0, None), 0).tokens
        check_prefixes(NUMPY, [([*prompt, *answer, 1], SAMPLERS[0], "a")], 8, prefixes, 1)
        assert prefixes.tokens == expected + (20 if chunk is None else 16)
    prefixes = Prefixes()
    batch = Batch(NUMPY, 8, prefixes)
    banned = GeneratedSequence([1, 2], Sampler(suppress_tokens=tuple(range(97))))
    list(batch.step([Row(banned)]))
    list(batch.step())
    assert prefixes.nbytes == 0


def test_what_is_kept_has_an_end() -> None:
    """The texts that were used last have room; one that continues another takes its place."""
    one = NUMPY.start(1)
    _, one = NUMPY.step(np.arange(8)[None], one)
    size = one.nbytes
    prefixes = Prefixes(3 * size)
    for first in range(10):
        prefixes.keep("", [first, *range(7)], [], one, 0)
        assert prefixes.find("", [0, *range(9)]) is not None
        assert prefixes.nbytes == min(first + 1, 3) * size
    assert prefixes.find("", [9, 0, 1]) is not None
    assert prefixes.find("", [7, 0, 1]) is None
    prefixes.keep("", [9, *range(7)], [], one, 0)
    _, longer = NUMPY.step(np.array([[7]]), one)
    prefixes.keep("", [9, *range(7)], [7], longer, 0)
    assert prefixes.nbytes < 3 * size
    nothing = Prefixes(0)
    nothing.keep("", [1], [], longer, 0)
    assert nothing.nbytes == 0


LONGER = tiny_models.llama(context=200)
REPEATING = NumpyEngine(LONGER, tiny_models.weights(LONGER, seed=4))  # its greedy texts go in circles


class Drafting(TimedEngine):
    """An engine whose drafts cost nothing; it counts the steps with one. Where it `misfits`, such a step
    can't be computed."""

    def __init__(self, engine: NumpyEngine, *, misfits: bool = False) -> None:
        super().__init__(engine)
        self.drafts, self.misfits = 0, misfits

    def step(self, tokens: Any, cache: Any, lengths: Any = None, at: Any = None) -> Any:
        self.drafts += at is not None
        if at is not None and self.misfits:
            raise NumericError("a refused token's keys don't fit")
        return super().step(tokens, cache, lengths, at)

    def cost(self, tokens: int) -> float:
        return 1.0


@pytest.mark.parametrize("misfits", [False, True])
def test_a_text_with_drafts_is_as_without(misfits: bool) -> None:
    """While it is alone in the batch. Texts that go on from what such a text left in its cache are too."""
    drafting, prefixes = Drafting(REPEATING, misfits=misfits), Prefixes(2**24)
    batch, begun = Batch(REPEATING, 7, prefixes, drafting), []

    def run(prompts: list[list[int]], after: int, cancelled: int = 99, **options: Any) -> list[list[int]]:
        """Texts of which each joins so many steps after the one before."""
        made = [GeneratedSequence(prompt, max_new_tokens=60) for prompt in prompts]
        waiting, step = list(made), 0
        while waiting or any(one.finish_reason is None for one in made):
            joining = [Row(waiting.pop(0), **options)] if waiting and step % after == 0 else []
            for outcome in batch.step(joining):
                assert outcome.error is None
                if len(outcome.sequence.tokens) == cancelled:
                    outcome.sequence.finish()
            step += 1
        list(batch.step())
        for one in made:
            alone = list(generate(REPEATING, GeneratedSequence(one.prompt, max_new_tokens=60)))
            assert one.tokens == alone[:cancelled]
        begun.append(step)
        return [one.tokens for one in made]

    prompt = [1, 2, 3] * 4
    run([prompt], 1)
    assert drafting.drafts == 1 if misfits else drafting.drafts > 3
    assert begun[-1] >= 60 if misfits else begun[-1] < 50
    for cancelled in range(20, 40, 3):
        (part,) = run([[*prompt, cancelled]], 1, cancelled)
        read = prefixes.tokens
        run([[*prompt, cancelled, *part, 5]], 1)
        assert prefixes.tokens - read >= len(prompt) + cancelled
    run([[*prompt[n:], n] for n in range(4)], 9)
    before = drafting.drafts
    run([[*prompt, 8]], 1, drafts=False)
    assert drafting.drafts == before


@pytest.mark.parametrize("build", [tiny_models.recurrent, tiny_models.gated_deltas])
def test_a_recurrence_forgets_a_refused_draft(build: Callable[..., Decoder]) -> None:
    config = build(context=200)
    engine = NumpyEngine(config, tiny_models.weights(config, seed=4))
    drafting, text = Drafting(engine), GeneratedSequence([1, 2, 3] * 4, max_new_tokens=60)
    batch = Batch(engine, 7, None, drafting)
    list(batch.step([Row(text)]))
    while text.finish_reason is None:
        list(batch.step())
    alone = list(generate(engine, GeneratedSequence(text.prompt, max_new_tokens=60)))
    assert text.tokens == alone
    assert drafting.drafts > 3


def test_the_log_probabilities_of_a_prompt() -> None:
    """However many tokens are read at a time, whoever else is there, and whether they were read before."""
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 97, count).tolist() for count in (1, 2, 9, 17)]
    batch = Batch(NUMPY, 8, Prefixes(2**20))
    for prompt in prompts:  # which the batch then has in its prefixes
        list(batch.step([Row(GeneratedSequence(prompt, max_new_tokens=1))]))
        for _ in range(3):
            list(batch.step())
    for together in (1, 4):
        noted: list[list[TokenLogprob]] = [[] for _ in prompts]
        for first in range(0, 4, together):
            some = slice(first, first + together)
            made = [GeneratedSequence(prompt, max_new_tokens=3, logprobs=2) for prompt in prompts[some]]
            list(batch.step([Row(one, prompt_logprobs=n) for one, n in zip(made, noted[some], strict=True)]))
            while any(one.finish_reason is None for one in made):
                list(batch.step())
        for prompt, found in zip(prompts, noted, strict=True):
            logits = NUMPY.step(np.array([prompt]), NUMPY.start(1), at=np.arange(len(prompt))[None])[0][0]
            expected = [token_logprob(row, token, 2) for row, token in zip(logits, prompt[1:], strict=False)]
            assert [one.token for one in found] == prompt[1:]
            np.testing.assert_allclose([o.logprob for o in found], [o.logprob for o in expected], rtol=1e-4)
            assert [[t for t, _ in o.top] for o in found] == [[t for t, _ in o.top] for o in expected]


def test_prompts_take_turns() -> None:
    """A short prompt doesn't wait for the whole of a long one, and texts go on meanwhile."""
    batch = Batch(NUMPY, chunk=4)
    first, long, short = (
        GeneratedSequence([1] * length, max_new_tokens=20, index=i) for i, length in enumerate((2, 28, 3))
    )
    list(batch.step([Row(first)]))
    list(batch.step([Row(long), Row(short)]))
    list(batch.step())
    assert (len(first.tokens), len(long.tokens), len(short.tokens)) == (4, 0, 2)


def test_an_error_ends_its_own_text_alone() -> None:
    banned = GeneratedSequence([1, 2], Sampler(suppress_tokens=tuple(range(97))), index=1)
    other = GeneratedSequence([3], max_new_tokens=3)
    batch = Batch(NUMPY)
    outcomes = [
        outcome for joining in ([banned, other], [], [], []) for outcome in batch.step([*map(Row, joining)])
    ]
    errors = [outcome for outcome in outcomes if outcome.error is not None]
    assert [(e.sequence, type(e.error)) for e in errors] == [(banned, LimitError)]
    expected = GeneratedSequence([3], max_new_tokens=3)
    assert other.tokens == list(generate(NUMPY, expected))


def test_after_an_error_of_the_engine_the_batch_is_empty() -> None:
    class Broken(NumpyEngine):
        broken = True

        def step(self, tokens: Any, cache: Any, lengths: Any = None, at: Any = None) -> Any:
            if self.broken:
                raise NumericError("broken")
            return super().step(tokens, cache, lengths, at)

    engine = Broken(CONFIG, tiny_models.weights(CONFIG, seed=4))
    batch = Batch(engine)
    with pytest.raises(NumericError):
        list(batch.step([Row(GeneratedSequence([1]))]))
    engine.broken = False
    assert list(batch.step()) == []
    next_one = GeneratedSequence([1], max_new_tokens=2)
    list(batch.step([Row(next_one)]))
    assert next_one.tokens == list(generate(NUMPY, GeneratedSequence([1], max_new_tokens=2)))


def test_prompts_with_log_probabilities_are_read_in_shorter_chunks_beside_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their logits are an array over all rows, so its size stays what it is for one."""
    sizes: list[int] = []
    step = NumpyEngine.step

    def counted(
        engine: NumpyEngine, tokens: np.ndarray, cache: Any, lengths: Any = None, at: Any = None
    ) -> Any:
        sizes.append(0 if at is None else at.size)
        return step(engine, tokens, cache, lengths, at)

    monkeypatch.setattr(NumpyEngine, "step", counted)
    made = [GeneratedSequence([5] * 20, max_new_tokens=1, logprobs=0) for _ in range(4)]
    batch = Batch(NUMPY, 8)
    list(batch.step([Row(one, prompt_logprobs=[]) for one in made]))
    while any(one.finish_reason is None for one in made):
        list(batch.step())
    assert max(sizes) == 8
