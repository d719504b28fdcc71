"""Beam search: of all texts, those that are likely as a whole; a driver over any engine.

Several beams grow side by side as rows of one cache. At each step every beam is continued by every
token, the likeliest continuations are the next beams, and those that end become hypotheses. Nothing
is drawn. It is transformers' beam search, of which the library's tests are the witness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from ..engine.protocol import Engine
from ..errors import LimitError
from .filters import largest
from .loop import CHUNK, FinishReason, begin, room
from .penalties import adjust, check_left
from .sampling import Sampler, check_logits


class Hypothesis(NamedTuple):
    """A text that ended: its new tokens without the stop token, its score, and why it ended."""

    tokens: list[int]
    score: float
    finished: FinishReason


@dataclass
class Search:
    """One text searched by several beams: feed it logits, it says which rows go on with which tokens.

    A hypothesis of n tokens, the stop token among them, scores log p / n^length_penalty: above 0 the
    penalty favours long texts, since log p is negative. The `beams` best are kept in `found`, best
    first. The search ends when `beams` are found and, by `early_stopping`,
    - True: at once;
    - False: when the best beam, if it ended now, wouldn't be better than the worst found;
    - "never": when it can't become better, at the length that suits it best.
    With a length penalty above 0 False may miss a longer text that would score higher, "never" doesn't.

    Conventions: penalties and bans act on log-probabilities, which aren't normalized again but with
    `renormalize` (Marian's models ask for it). Of equal
    continuations that of the better beam comes first, then the lower id; of equal hypotheses the one
    found earlier. A hypothesis counts only if it is among the `beams` best continuations of its step:
    one that is worse would be crowded out by texts that go on.
    """

    prompt: Sequence[int]
    beams: int
    sampler: Sampler = field(default_factory=Sampler)
    stop_ids: frozenset[int] = frozenset()
    max_new_tokens: int = 256
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    renormalize: bool = False
    source: Sequence[int] | None = None

    def __post_init__(self) -> None:
        # The longest context to the power of 40 is still a float64.
        if self.beams < 1 or self.max_new_tokens < 1 or not abs(self.length_penalty) <= 40:
            raise LimitError(
                "beam search takes at least one beam and one new token and a length penalty of -40 to 40, "
                f"got {self.beams!r:.40}, {self.max_new_tokens!r:.40} and {self.length_penalty!r:.40}"
            )
        self.length_penalty = float(self.length_penalty)
        if type(self.early_stopping) is not bool and self.early_stopping != "never":
            raise LimitError(
                f'early_stopping must be true, false or "never", got {self.early_stopping!r:.40}'
            )
        if not self.sampler.greedy:
            raise LimitError(
                "beam search draws nothing: leave out temperature, top-k, top-p, min-p, typical-p"
            )
        self.found: list[Hypothesis] = []
        self._texts: list[list[int]] = [[]]
        self._scores = np.zeros(1)

    def accept(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """From logits [beams, N] the rows to go on with and a token for each; None at the end."""
        length = len(self._texts[0]) + 1
        last = length >= self.max_new_tokens
        scores = self._scores[:, None] + self._log_probabilities(logits)
        # A beam has one continuation a stop token that ends, so this many leave `beams` that go on.
        count = min(max(2, 1 + len(self.stop_ids)) * self.beams, scores.size)
        order = largest(scores.reshape(-1), count)
        order = order[scores.reshape(-1)[order] > -np.inf]
        goes_on: list[int] = []
        ended: list[Hypothesis] = []
        for rank, at in enumerate(order):
            row, token = divmod(int(at), logits.shape[1])
            stops = token in self.stop_ids
            if not (stops or last):
                goes_on.append(int(at))
            elif rank < self.beams:
                text = self._texts[row] if stops else [*self._texts[row], token]
                score = float(scores[row, token]) / length**self.length_penalty
                ended.append(Hypothesis(text, score, "stop" if stops else "length"))
        self.found = sorted(self.found + ended, key=lambda h: -h.score)[: self.beams]
        rows, tokens = np.divmod(np.array(goes_on[: self.beams], np.int64), logits.shape[1])
        self._texts = [[*self._texts[r], int(t)] for r, t in zip(rows, tokens, strict=True)]
        self._scores = scores[rows, tokens]
        if not len(rows):
            check_left(-np.inf if not self.found else 0.0)
            return None
        return None if self._settled(length) else (rows, tokens)

    def _log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        check_logits(logits)
        exact = _normalized(logits.astype(np.float64))
        if not self.sampler.adjusts:
            return exact
        made = len(self._texts[0])
        last = made + 1 >= self.max_new_tokens
        texts = [np.array([*self.prompt, *text], np.int64) for text in self._texts]
        rows = zip(exact, texts, strict=True)
        changed = np.stack([adjust(row, self.sampler, text, made, self.stop_ids, last) for row, text in rows])
        return _normalized(changed) if self.renormalize else changed

    def _settled(self, length: int) -> bool:
        if len(self.found) < self.beams:
            return False
        if self.early_stopping is True:
            return True
        grown = self.early_stopping == "never" and self.length_penalty > 0
        hoped = self._scores[0] / (self.max_new_tokens if grown else length) ** self.length_penalty
        return not hoped > self.found[-1].score


def _normalized(logits: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities [B, N]; a row whose tokens are all banned stays so."""
    most = logits.max(axis=1, keepdims=True)
    exact = logits - np.where(most > -np.inf, most, 0.0)
    total = np.exp(exact).sum(axis=1, keepdims=True)
    return exact - np.log(np.where(total > 0, total, 1.0))


def search(engine: Engine, wanted: Search, cache: Any = None, chunk: int = CHUNK) -> list[Hypothesis]:
    """The hypotheses, best first. `cache` may hold a prefix of the prompt already."""
    wanted.max_new_tokens = room(engine.config.context, len(wanted.prompt), wanted.max_new_tokens)
    logits, cache = begin(engine, wanted.prompt, cache, chunk, wanted.source)
    step = wanted.accept(logits[None])
    while step is not None:
        rows, tokens = step
        logits, cache = engine.step(tokens[:, None], cache.select(rows))
        step = wanted.accept(logits[:, 0])
    return wanted.found
