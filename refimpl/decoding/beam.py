"""Beam search: find the texts with the highest total probability, with any engine.

Several beams grow side by side as rows of one cache. Each step extends every beam by every token. The
likeliest extensions become the next beams, and extensions that end their text become hypotheses. Nothing is
sampled. The tests compare the results with those of transformers' beam search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from ..engine.protocol import Cache, Engine
from ..errors import LimitError
from .filters import top_indices
from .logprobs import log_softmax
from .loop import CHUNK, read_prompt
from .options import MOST_BEAMS, TextOptions, require
from .penalties import adjust_logits, check_any_allowed
from .sampler import Sampler
from .sampling import check_logits
from .stop import FinishReason, finish_reason, limit_new_tokens

Rules = Callable[[np.ndarray, Sequence[int]], np.ndarray]


class Hypothesis(NamedTuple):
    """A finished text of a beam search: its new tokens without the stop token, its score, and why it
    ended."""

    tokens: list[int]
    score: float
    finish_reason: FinishReason


@dataclass
class BeamSearch:
    """The state of one beam search. In each step, `advance` chooses the rows to continue and their next
    tokens.

    A hypothesis with n tokens, including its stop token, has the score log p / n^length_penalty. A penalty
    above 0 favours long texts, since log p is negative. `hypotheses` contains the `beams` best hypotheses,
    best first. Once there are `beams` hypotheses, `early_stopping` says when the search ends:

    - True: at once;
    - False: when the best beam, if it ended now, wouldn't beat the worst hypothesis;
    - "never": when no beam can beat the worst hypothesis any more, whatever its final length. With a length
      penalty above 0, False may miss a longer text with a higher score, and "never" can't.

    `rules` is a function that changes a row's log-probabilities after penalties, depending on the row's new
    tokens.

    Conventions: penalties and bans are applied to log-probabilities, which are normalized again only with
    `renormalize` (Marian's models ask for it). If continuations have equal scores, the better beam wins, then
    the lower id. If hypotheses have equal scores, the earlier one wins. A hypothesis counts only if it is
    among the `beams` best continuations of its step.
    """

    prompt: Sequence[int]
    beams: int
    sampler: Sampler = field(default_factory=Sampler)
    stop_ids: frozenset[int] = frozenset()
    max_new_tokens: int = 256
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    renormalize: bool = False
    encoder_ids: Sequence[int] | None = None
    rules: Rules | None = None

    def __post_init__(self) -> None:
        # A search may have any number of beams, a user's has a limit.
        require(TextOptions, {**vars(self), "beams": min(self.beams, MOST_BEAMS)})
        self.length_penalty = float(self.length_penalty)
        if not self.sampler.greedy:
            raise LimitError(
                "beam search can't sample: don't set temperature, top-k, top-p, min-p or typical-p"
            )
        self.sampler = self.sampler.after_reading(self.encoder_ids)
        self.hypotheses: list[Hypothesis] = []
        self._tokens: list[list[int]] = [[]]
        self._scores = np.zeros(1)

    def advance(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Choose the next beams from logits [beams, N].

        Returns the row that each new beam continues, and each new beam's token. Returns None when the search
        has ended.
        """
        length = len(self._tokens[0]) + 1
        vocabulary = logits.shape[1]
        scores = self._scores[:, None] + self._log_probabilities(logits)
        flat_scores = scores.reshape(-1)
        # Each beam has at most one continuation per stop token, so this many leave `beams` that go on.
        count = min(max(2, 1 + len(self.stop_ids)) * self.beams, scores.size)
        best = top_indices(flat_scores, count)
        best = best[flat_scores[best] > -np.inf]
        continued: list[int] = []
        ended: list[Hypothesis] = []
        for rank, index in enumerate(best):
            row, token = divmod(int(index), vocabulary)
            reason = finish_reason(token, length, self.stop_ids, self.max_new_tokens)
            if reason is None:
                continued.append(int(index))
            elif rank < self.beams:
                tokens = self._tokens[row]
                if reason != "stop":
                    tokens = [*tokens, token]
                score = float(scores[row, token]) / length**self.length_penalty
                ended.append(Hypothesis(tokens, score, reason))
        ranked = sorted(self.hypotheses + ended, key=lambda hypothesis: -hypothesis.score)
        self.hypotheses = ranked[: self.beams]
        rows, tokens = np.divmod(np.array(continued[: self.beams], np.int64), vocabulary)
        self._tokens = [[*self._tokens[row], int(token)] for row, token in zip(rows, tokens, strict=True)]
        self._scores = scores[rows, tokens]
        if not len(rows):
            check_any_allowed(-np.inf if not self.hypotheses else 0.0)
            return None
        return None if self._done(length) else (rows, tokens)

    def _log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        check_logits(logits)
        log_p = log_softmax(logits.astype(np.float64))
        if not self.sampler.adjusts_logits and self.rules is None:
            return log_p
        new_tokens = len(self._tokens[0])
        last = new_tokens + 1 >= self.max_new_tokens
        adjusted = []
        for row, tokens in zip(log_p, self._tokens, strict=True):
            text = np.array([*self.prompt, *tokens], np.int64)
            row = adjust_logits(row, self.sampler, text, new_tokens, self.stop_ids, last)
            adjusted.append(row if self.rules is None else self.rules(row, tokens))
        return log_softmax(np.stack(adjusted)) if self.renormalize else np.stack(adjusted)

    def _done(self, length: int) -> bool:
        if len(self.hypotheses) < self.beams:
            return False
        if self.early_stopping is True:
            return True
        # A positive penalty favours long texts: the best score that a beam can reach is at the full length.
        if self.early_stopping == "never" and self.length_penalty > 0:
            length = self.max_new_tokens
        return not self._scores[0] / length**self.length_penalty > self.hypotheses[-1].score


def beam_search(
    engine: Engine, search: BeamSearch, cache: Cache | None = None, chunk: int = CHUNK
) -> list[Hypothesis]:
    """Run a beam search to its end and return the hypotheses, best first.

    `cache` may already contain the beginning of the prompt.
    """
    for _ in beam_steps(engine, search, cache, chunk):
        pass
    return search.hypotheses


def beam_steps(
    engine: Engine, search: BeamSearch, cache: Cache | None = None, chunk: int = CHUNK
) -> Iterator[None]:
    """Run `beam_search` as a generator that pauses after each step, so that the caller can do other work in
    between.

    After the last step `search.hypotheses` contains the results.
    """
    search.max_new_tokens = limit_new_tokens(engine.config, len(search.prompt), search.max_new_tokens)
    logits, cache = read_prompt(engine, search.prompt, cache, chunk, search.encoder_ids)
    step = search.advance(logits[None])
    while step is not None:
        yield
        rows, tokens = step
        logits, cache = engine.step(tokens[:, None], cache.select(rows))
        step = search.advance(logits[:, 0])
