"""Speculative decoding: a cheap draft proposes tokens, one step of the model judges them all.

Leviathan et al. 2023, algorithm 1. A draft token x that was drawn with probability q(x) is accepted
with probability min(1, p(x) / q(x)), p being the model's own. At the first one refused a token is
drawn from what the draft gives too little of, max(p − q, 0) normalized; if all are accepted, one more
from p. Either way each token comes out with probability p(x): min(p, q) + (1 − Σ min(p, q)) ·
max(p − q, 0) / Σ max(p − q, 0) = p. So the draft decides how fast a text is made, never which text is
how likely; greedy gives the very tokens of greedy.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..engine.protocol import Engine
from ..errors import LimitError
from .loop import CHUNK, GeneratedSequence, begin, prefill, room, start
from .sampling import falls_on, probabilities


class Draft(NamedTuple):
    """Proposed tokens and the distribution q [N] that each was drawn from; None: it was certain."""

    tokens: list[int]
    drawn_from: list[np.ndarray | None]


class Drafter(Protocol):
    """A source of drafts."""

    def propose(self, row: GeneratedSequence, count: int) -> Draft:
        """Up to `count` tokens that may follow the row's text; none is an answer too."""
        ...


class Lookup:
    """Drafts without a model: what followed the text's last n tokens where they stood before.

    Prompt lookup (Saxena 2023): answers often repeat their prompt. The longest n up to `longest` that
    occurs wins, then the latest place: what was said last is likelier to be said again. What an encoder
    read counts as earlier text.
    """

    def __init__(self, longest: int = 3) -> None:
        self.longest = longest

    def propose(self, row: GeneratedSequence, count: int) -> Draft:
        text = np.array([*(row.source or ()), *row.prompt, *row.tokens], np.int64)
        for n in range(min(self.longest, len(text) - 1), 0, -1):
            earlier = np.lib.stride_tricks.sliding_window_view(text[:-1], n)
            places = np.flatnonzero((earlier == text[-n:]).all(axis=1))
            if len(places):
                follows = text[places[-1] + n :][:count].tolist()
                return Draft(follows, [None] * len(follows))
        return Draft([], [])


class DraftModel:
    """Drafts of a smaller model of the same vocabulary, drawn as the row's own sampler says.

    Its cache holds the text as far as it was read; what the model refused is cut back.
    """

    def __init__(self, engine: Engine, target: Engine) -> None:
        ours, theirs = (e.config.embedding.vocabulary for e in (engine, target))
        if ours != theirs:
            raise LimitError(f"a draft model must have the model's vocabulary of {theirs}, it has {ours}")
        self.engine = engine
        self._cache: Any = None
        self._held: list[int] = []

    def propose(self, row: GeneratedSequence, count: int) -> Draft:
        text = [*row.prompt, *row.tokens]
        count = min(count, self.engine.config.context - len(text) + 1)
        draft = Draft([], [])
        if count < 1:
            return draft
        logits, cache = self._read(text, row.source)
        while True:
            q = probabilities(row.prepare(logits, draft.tokens), row.sampler)
            draft.tokens.append(falls_on(q, row.uniform()))
            draft.drawn_from.append(q)
            if len(draft.tokens) == count or draft.tokens[-1] in row.stop_ids:
                break
            step, cache = self.engine.step(np.array([draft.tokens[-1:]], np.int64), cache)
            logits = step[0, 0]
        self._cache, self._held = cache, [*text, *draft.tokens[:-1]]
        return draft

    def _read(self, text: Sequence[int], source: Sequence[int] | None) -> tuple[np.ndarray, Any]:
        """Logits after the text, reading only what the cache doesn't hold."""
        same = 0
        while same < min(len(self._held), len(text) - 1) and self._held[same] == text[same]:
            same += 1
        cache = start(self.engine, source) if self._cache is None else self._cache
        if same < int(cache.lengths[0]):
            same = same if same >= int(cache.floor[0]) else 0
            cache = cache.truncate(np.array([same]))
        return prefill(self.engine, text[same:], cache)


def accepts(p: np.ndarray, q: np.ndarray | None, token: int, u: float) -> bool:
    """Whether a token drawn from q stays, for a uniform number u in [0, 1): u < p(token) / q(token)."""
    return u * (1.0 if q is None else q[token]) < p[token]


def residual(p: np.ndarray, q: np.ndarray | None, token: int) -> np.ndarray:
    """max(p − q, 0) normalized: what is drawn from where a token was refused; of a certain one, p without it.

    Where nothing is left, p and q are equal but for rounding, and p stands.
    """
    left = np.where(np.arange(len(p)) == token, 0.0, p) if q is None else np.maximum(p - q, 0.0)
    total = left.sum()
    return left / total if total > 0 else p


def speculate(
    engine: Engine,
    row: GeneratedSequence,
    drafter: Drafter,
    ahead: int = 4,
    cache: Any = None,
    chunk: int = CHUNK,
) -> Generator[int, None, Any]:
    """As `generate.single`, with up to `ahead` tokens proposed and judged in a step of the model."""
    row.max_new_tokens = room(engine.config.context, len(row.prompt), row.max_new_tokens)
    logits, cache = begin(engine, row.prompt, cache, chunk, row.source)
    first = row.accept(logits)
    if first is not None:
        yield first
    while row.finished is None:
        count = min(ahead, row.max_new_tokens - len(row.tokens) - 1)
        draft = drafter.propose(row, count) if count > 0 else Draft([], [])
        fed = np.array([[row.tokens[-1], *draft.tokens]], np.int64)
        logits, cache = engine.step(fed, cache, at=np.arange(fed.shape[1])[None])
        before, agreed = len(row.tokens), 0
        for i, drafted in enumerate([*draft.tokens, None]):
            p = probabilities(row.prepare(logits[0, i]), row.sampler)
            token = drafted
            if token is None:
                token = falls_on(p, row.uniform())
            elif not accepts(p, draft.drawn_from[i], token, row.uniform()):
                token = falls_on(residual(p, draft.drawn_from[i], token), row.uniform())
            made = row.keep(token)
            agreed += made is not None and made == drafted
            if made is not None:
                yield made
            if row.finished is not None or token != drafted:
                break
        cache = cache.truncate(np.array([len(row.prompt) + before + agreed]))
    return cache
