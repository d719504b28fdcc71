"""Speculative decoding: a cheap draft proposes tokens, and one step of the model checks them all.

Each position of a text has one random number u, used by both the model and the draft
(`GeneratedSequence.uniform`). The step computes the model's logits at each drafted position. These logits and
u determine the token of the text. Drafted tokens are accepted as long as they equal these tokens. So a draft
changes only the speed: greedy or sampled, the text is the same as without drafts. A draft model samples with
the same u, so its token is likely to equal the model's (common random numbers).

This is true only if the logits are the same. An engine may round differently when it computes several tokens
at once, above all if activations are quantized. Then another token may be chosen if two logits are nearly
equal, or if u is close to the border between two tokens.

Leviathan et al. 2023 instead accept tokens by the ratio of two distributions, and sample again for rejected
tokens. Their method gives the same distribution, and accepts a draft model's tokens as often as possible. But
with the same seed, different drafts give different texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Protocol

import numpy as np

from ..engine.protocol import Cache, Engine
from ..errors import LimitError, NumericError
from .loop import CHUNK, GeneratedSequence, prefill, read_prompt, start_cache
from .stop import limit_new_tokens

SHORTEST_NGRAM = 2
# Running counts of tokens that were accepted and of those that were refused: what a text begins with, so that
# nothing is drafted before some of it was seen to repeat, and what is left of them after each draft.
COUNTS_AT_FIRST, SHARE_KEPT = (0.0, 1.0), 0.75
WATCHED = 2  # tokens that are compared with the text where none are drafted


class Drafter(Protocol):
    """The protocol of drafters: objects that guess the next tokens of a text."""

    def propose(self, sequence: GeneratedSequence, count: int) -> list[int]:
        """Return up to `count` tokens that may follow the sequence's text; the list may be empty."""
        ...


def draft_length(rate: float, longest: int, cost: Callable[[int], float]) -> int:
    """Return how many tokens to draft, up to `longest`, for the most tokens per second; 0 if drafts save no
    time.

        argmax over n of  (1 + rate + rate^2 + ... + rate^n) / cost(1 + n)

    Each drafted token is accepted with the probability `rate` if all drafted tokens before it were accepted.
    The step always adds one further token. `cost(n)` is the time of a step of n tokens, as a multiple of the
    time of a step of one token.
    """
    best, most, written, likely = 0, 1.0, 1.0, 1.0
    for length in range(1, longest + 1):
        likely *= rate
        written += likely
        steps = cost(1 + length)
        gain = written / steps if steps > 0 else math.inf
        if gain > most:
            best, most = length, gain
    return best


def estimated_cost(tokens: int) -> float:
    """Estimate the time of a step of several tokens, as a multiple of the time of a step of one token.

    Each token after the first adds 0.1. For SmolLM2 in int8 on two cores, the measured multiple was 1.24 for
    4 tokens and 1.74 for 8. The estimate is the same on every machine. So no text depends on measured times,
    even if rounding decides between two tokens.
    """
    return 1 + 0.1 * (tokens - 1)


class PromptLookup:
    """A drafter without a model: it finds an earlier occurrence of the text's last n tokens, and proposes the
    tokens that followed.

    This is prompt lookup decoding (Saxena 2023): answers often repeat their prompt. The drafter uses the
    longest n from 2 to `max_ngram` that has a match, and the latest match. One token (n = 1) says too little
    about what follows. An encoder's text counts as earlier text.

    The drafter proposes the number of tokens that saves the most time (`draft_length`). The number depends on
    `cost` and on the share of recent drafted tokens that were accepted. `cost` is the time of a step of
    several tokens, as a multiple of a step of one token. While drafts save no time, as at the beginning, the
    drafter proposes nothing. But it still compares its guesses with the text, so drafts begin once the text
    repeats itself.
    """

    def __init__(self, max_ngram: int = 3, cost: Callable[[int], float] = estimated_cost) -> None:
        self.max_ngram, self.cost = max_ngram, cost
        self._sequence: GeneratedSequence | None = None
        self._text: list[int] = []  # its tokens, those that an encoder reads too
        self._answer_at = 0  # where its answer begins
        self._ends: dict[tuple[int, ...], int] = {}  # of n-grams that something follows, the latest
        self._indexed = 0  # up to which end they are there
        self._found: list[int] = []  # the beginning of the latest continuation, drafted or watched
        self._found_at = 0  # the position in the answer that it begins at
        self._accepted, self._refused = COUNTS_AT_FIRST

    def propose(self, sequence: GeneratedSequence, count: int) -> list[int]:
        if sequence is not self._sequence:
            self._sequence, self._found = sequence, []
            self._accepted, self._refused = COUNTS_AT_FIRST
            self._text = [*(sequence.encoder_ids or ()), *sequence.prompt]
            self._answer_at, self._ends, self._indexed = len(self._text), {}, 0
        self._text += sequence.tokens[len(self._text) - self._answer_at :]
        if self._found:
            written = sequence.tokens[self._found_at :][: len(self._found)]
            agreed = next((i for i, token in enumerate(written) if token != self._found[i]), len(written))
            if agreed == len(written) < len(self._found):
                return []  # it wasn't drafted, and may still come true
            self._accepted = self._accepted * SHARE_KEPT + agreed
            self._refused = self._refused * SHARE_KEPT + (agreed < len(self._found))
        found = self._look_up(count)
        rate = self._accepted / (self._accepted + self._refused)
        length = draft_length(rate, len(found), self.cost)
        self._found, self._found_at = found[: length or WATCHED], len(sequence.tokens)
        return found[:length]

    def _look_up(self, count: int) -> list[int]:
        """Return up to `count` tokens that followed an earlier occurrence of the text's last tokens."""
        text, lengths = self._text, range(SHORTEST_NGRAM, self.max_ngram + 1)
        for end in range(self._indexed + 1, len(text)):
            self._ends.update((tuple(text[end - n : end]), end) for n in lengths if n <= end)
        self._indexed = max(self._indexed, len(text) - 1)
        for n in reversed(lengths):
            if (end := self._ends.get(tuple(text[-n:]))) is not None:
                return text[end : end + count]
        return []


class DraftModel:
    """A drafter that runs a smaller model with the same vocabulary.

    It samples with the sequence's own sampler and random numbers. The smaller model's cache keeps the text
    that it has read; tokens that the large model rejects are removed from this cache. If the smaller model
    can't compute a text, the drafter makes no more drafts for this text.
    """

    def __init__(self, engine: Engine, target: Engine) -> None:
        vocabulary = engine.config.embedding.vocabulary
        expected = target.config.embedding.vocabulary
        if vocabulary != expected:
            raise LimitError(
                f"a draft model must have the model's vocabulary of {expected}, but it has {vocabulary}"
            )
        self.engine = engine
        self._cache: Cache | None = None
        self._cached_tokens: list[int] = []
        self._without: GeneratedSequence | None = None  # a text that it can't compute

    def propose(self, sequence: GeneratedSequence, count: int) -> list[int]:
        text = [*sequence.prompt, *sequence.tokens]
        count = min(count, self.engine.config.context - len(text) + 1)
        if count < 1 or sequence is self._without:
            return []
        try:
            return self._draft(sequence, text, count)
        except NumericError:
            self._cache, self._cached_tokens, self._without = None, [], sequence
            return []

    def _draft(self, sequence: GeneratedSequence, text: Sequence[int], count: int) -> list[int]:
        draft: list[int] = []
        logits, cache = self._prefill(text, sequence.encoder_ids)
        while True:
            token = sequence.choose(logits, draft)
            draft.append(token)
            if len(draft) == count or token in sequence.stop_ids:
                break
            step, cache = self.engine.step(np.array([[token]], np.int64), cache)
            logits = step[0, 0]
        self._cache = cache
        self._cached_tokens = [*text, *draft[:-1]]
        return draft

    def _prefill(self, text: Sequence[int], encoder_ids: Sequence[int] | None) -> tuple[np.ndarray, Cache]:
        """Read the part of a text that isn't cached yet; return the logits after the text, and the cache."""
        common = 0
        limit = min(len(self._cached_tokens), len(text) - 1)
        while common < limit and self._cached_tokens[common] == text[common]:
            common += 1
        cache = start_cache(self.engine, encoder_ids) if self._cache is None else self._cache
        if common < int(cache.lengths[0]):
            # A cache with a window can't be cut back below its floor: then the whole text is read again.
            if common < int(cache.floor[0]):
                common = 0
            cache = cache.truncate(np.array([common]))
        return prefill(self.engine, text[common:], cache)


class Speculation:
    """Speculative decoding of one text, step by step. It begins after the prompt and the first token.

    In each step up to `draft_length` tokens are proposed, and the model checks them all at once.

    A step with a draft may be impossible, for example if the keys of drafted tokens don't fit the cache. The
    text is then read again, and the rest is generated without drafts. Between steps, `cache` contains no
    rejected token.

    A token can't be removed from a recurrent state. So a cache with such a state is copied before each draft.
    If a token is rejected, one more step reads the accepted tokens into the copy.
    """

    def __init__(
        self,
        engine: Engine,
        sequence: GeneratedSequence,
        drafter: Drafter,
        cache: Cache,
        draft_length: int = 4,
        chunk: int = CHUNK,
    ) -> None:
        self.cache = cache
        self._snapshots = int(cache.floor[0]) == int(cache.lengths[0]) > 0
        self._engine, self._sequence, self._drafter = engine, sequence, drafter
        self._longest, self._chunk = draft_length, chunk

    def step(self) -> Iterator[int | None]:
        """Run one step and yield its tokens, or None for a stop token. The caller may end the text after any
        token.
        """
        sequence = self._sequence
        count = min(self._longest, sequence.max_new_tokens - len(sequence.tokens) - 1)
        draft = self._drafter.propose(sequence, count) if count > 0 else []
        step_tokens = np.array([[sequence.tokens[-1], *draft]], np.int64)
        snapshot = self.cache.copy(0) if draft and self._snapshots else None
        try:
            at = np.arange(step_tokens.shape[1])[None] if draft else None
            logits, self.cache = self._engine.step(step_tokens, self.cache, at=at)
        except NumericError:
            if not draft:
                raise
            draft, self._longest = [], 0
            text, cache = (
                [*sequence.prompt, *sequence.tokens],
                start_cache(self._engine, sequence.encoder_ids),
            )
            last, self.cache = prefill(self._engine, text, cache, self._chunk)
            logits = last[None, None]
        before = len(sequence.tokens)
        accepted = 0
        for position, drafted in enumerate([*draft, None]):
            token = sequence.sample(logits[0, position])
            accepted += token is not None and token == drafted
            yield token
            if sequence.finish_reason is not None or token != drafted:
                break
        if accepted == len(draft):
            return
        if snapshot is None:
            self.cache = self.cache.truncate(np.array([len(sequence.prompt) + before + accepted]))
        else:
            _, self.cache = self._engine.step(step_tokens[:, : 1 + accepted], snapshot)


def speculate(
    engine: Engine,
    sequence: GeneratedSequence,
    drafter: Drafter,
    draft_length: int = 4,
    cache: Cache | None = None,
    chunk: int = CHUNK,
) -> Generator[int, None, Cache]:
    """Generate one text like `loop.generate`, with speculative decoding.

    In each step the drafter proposes up to `draft_length` tokens, and one step of the model checks them.
    """
    sequence.max_new_tokens = limit_new_tokens(engine.config, len(sequence.prompt), sequence.max_new_tokens)
    logits, cache = read_prompt(engine, sequence.prompt, cache, chunk, sequence.encoder_ids)
    first = sequence.sample(logits)
    if first is not None:
        yield first
    speculation = Speculation(engine, sequence, drafter, cache, draft_length, chunk)
    while sequence.finish_reason is None:
        yield from (token for token in speculation.step() if token is not None)
    return speculation.cache
