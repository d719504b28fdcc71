"""Speculative decoding: a cheap draft proposes tokens, and one step of the model checks them all.

Leviathan et al. 2023, algorithm 1. A draft token x that was drawn with probability q(x) is accepted with
probability min(1, p(x) / q(x)), where p is the model's own distribution. At the first rejected token a new
one is drawn from the residual, max(p − q, 0) normalized; if all are accepted, one more is drawn from p.
Either way each token has probability p(x): min(p, q) + (1 − Σ min(p, q)) · max(p − q, 0) / Σ max(p − q, 0)
= p. So the draft changes the speed and not the distribution; greedy decoding gives the same tokens as
without a draft, as far as p is the same. But an engine rounds otherwise when it computes several tokens at
once, most of all where activations are rounded to codes, and may then choose the other one of two tokens
whose logits are nearly equal.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ..engine.protocol import Cache, Engine
from ..errors import LimitError
from .loop import CHUNK, GeneratedSequence, prefill, read_prompt, start_cache
from .sampling import draw, probabilities
from .stop import limit_new_tokens


class Draft(NamedTuple):
    """Proposed tokens and the distribution q [N] that each was drawn from; None for one that wasn't drawn."""

    tokens: list[int]
    probabilities: list[np.ndarray | None]


class Drafter(Protocol):
    """Proposes drafts."""

    def propose(self, sequence: GeneratedSequence, count: int) -> Draft:
        """Up to `count` tokens that may follow the sequence's text; there may be none."""
        ...


class PromptLookup:
    """Drafts without a model: the tokens that followed an earlier occurrence of the text's last n tokens.

    Prompt lookup decoding (Saxena 2023): answers often repeat their prompt. The longest matching n up to
    `max_ngram` wins, then the latest occurrence. What the encoder read counts as earlier text.
    """

    def __init__(self, max_ngram: int = 3) -> None:
        self.max_ngram = max_ngram

    def propose(self, sequence: GeneratedSequence, count: int) -> Draft:
        tokens = [*(sequence.encoder_ids or ()), *sequence.prompt, *sequence.tokens]
        text = np.array(tokens, np.int64)
        for n in range(min(self.max_ngram, len(text) - 1), 0, -1):
            ngrams = np.lib.stride_tricks.sliding_window_view(text[:-1], n)
            matches = np.flatnonzero((ngrams == text[-n:]).all(axis=1))
            if len(matches):
                following = text[matches[-1] + n :][:count].tolist()
                return Draft(following, [None] * len(following))
        return Draft([], [])


class DraftModel:
    """Drafts of a smaller model with the same vocabulary, drawn with the sequence's own sampler.

    Its cache keeps the text that it has read; tokens that the model rejects are cut off again.
    """

    def __init__(self, engine: Engine, target: Engine) -> None:
        vocabulary = engine.config.embedding.vocabulary
        expected = target.config.embedding.vocabulary
        if vocabulary != expected:
            raise LimitError(
                f"a draft model must have the model's vocabulary of {expected}, it has {vocabulary}"
            )
        self.engine = engine
        self._cache: Cache | None = None
        self._cached_tokens: list[int] = []

    def propose(self, sequence: GeneratedSequence, count: int) -> Draft:
        text = [*sequence.prompt, *sequence.tokens]
        count = min(count, self.engine.config.context - len(text) + 1)
        draft = Draft([], [])
        if count < 1:
            return draft
        logits, cache = self._prefill(text, sequence.encoder_ids)
        while True:
            q = probabilities(sequence.process_logits(logits, draft.tokens), sequence.sampler)
            token = draw(q, sequence.uniform())
            draft.tokens.append(token)
            draft.probabilities.append(q)
            if len(draft.tokens) == count or token in sequence.stop_ids:
                break
            step, cache = self.engine.step(np.array([[token]], np.int64), cache)
            logits = step[0, 0]
        self._cache = cache
        self._cached_tokens = [*text, *draft.tokens[:-1]]
        return draft

    def _prefill(self, text: Sequence[int], encoder_ids: Sequence[int] | None) -> tuple[np.ndarray, Cache]:
        """Logits after the text, and the cache; only tokens that aren't cached are read."""
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


def accepts(p: np.ndarray, q: np.ndarray | None, token: int, u: float) -> bool:
    """Whether a token drawn from q is accepted, for a uniform number u in [0, 1): u < p(token) / q(token)."""
    return u * (1.0 if q is None else q[token]) < p[token]


def residual(p: np.ndarray, q: np.ndarray | None, token: int) -> np.ndarray:
    """max(p − q, 0) normalized: the distribution that replaces a rejected token.

    Without q (the token wasn't drawn) it is p without the token. If nothing is left, p and q are equal up to
    rounding, and the result is p.
    """
    difference = np.where(np.arange(len(p)) == token, 0.0, p) if q is None else np.maximum(p - q, 0.0)
    total = difference.sum()
    return difference / total if total > 0 else p


def speculate(
    engine: Engine,
    sequence: GeneratedSequence,
    drafter: Drafter,
    draft_length: int = 4,
    cache: Cache | None = None,
    chunk: int = CHUNK,
) -> Generator[int, None, Cache]:
    """As `loop.generate`, with up to `draft_length` tokens proposed and checked in a step of the model.

    Raises LimitError for a model that can't take back the tokens that it rejects.
    """
    sequence.max_new_tokens = limit_new_tokens(
        engine.config.context, len(sequence.prompt), sequence.max_new_tokens
    )
    logits, cache = read_prompt(engine, sequence.prompt, cache, chunk, sequence.encoder_ids)
    if int(cache.floor[0]) == int(cache.lengths[0]) > 0:
        raise LimitError(
            "a draft needs a model that can take tokens back, and a recurrence's state can't: leave out draft"
        )
    first = sequence.sample(logits)
    if first is not None:
        yield first
    while sequence.finish_reason is None:
        count = min(draft_length, sequence.max_new_tokens - len(sequence.tokens) - 1)
        draft = drafter.propose(sequence, count) if count > 0 else Draft([], [])
        step_tokens = np.array([[sequence.tokens[-1], *draft.tokens]], np.int64)
        logits, cache = engine.step(step_tokens, cache, at=np.arange(step_tokens.shape[1])[None])
        before = len(sequence.tokens)
        accepted = 0
        for i, drafted in enumerate([*draft.tokens, None]):
            p = probabilities(sequence.process_logits(logits[0, i]), sequence.sampler)
            token = drafted
            if token is None:
                token = draw(p, sequence.uniform())
            elif not accepts(p, draft.probabilities[i], token, sequence.uniform()):
                token = draw(residual(p, draft.probabilities[i], token), sequence.uniform())
            appended = sequence.append(token, logits[0, i])
            if appended is not None:
                if appended == drafted:
                    accepted += 1
                yield appended
            if sequence.finish_reason is not None or token != drafted:
                break
        cache = cache.truncate(np.array([len(sequence.prompt) + before + accepted]))
    return cache
