"""Speculative decoding with the model's own module for multi-token prediction (MTP, `ops.mtp`).

The module drafts tokens from the model's hidden states.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..engine.protocol import Cache, MTPEngine, check_mtp
from ..engine.wrapper import EngineWrapper
from ..errors import LimitError, NumericError
from .loop import GeneratedSequence
from .speculative import draft_length, estimated_cost

LONGEST = 4  # tokens of a draft: the module was trained for one, and is applied to its own for the next
# Running counts of drafted tokens that were accepted and of those that were refused: what a text begins with,
# and what is left of them after each draft.
COUNTS_AT_FIRST, SHARE_KEPT = (1.0, 1.0), 0.75
TRIED = 8  # where no draft pays, one token is drafted each so many steps


class MTPDrafter(EngineWrapper[MTPEngine]):
    """A drafter that uses a model's MTP module. It is also an engine that wraps the model.

    The module reads pairs: a token, and the model's hidden state of the token before it. This engine keeps
    the hidden states of the model's steps for the module. So the text must be generated with this object as
    its engine: `speculate(drafter, sequence, drafter)`. Before the first draft the module reads the pairs of
    the whole text. After that, it reads the pairs of accepted tokens. While drafting, it reads pairs with its
    own hidden states, and then removes these pairs from its cache.

    The drafter proposes the number of tokens that saves the most time (`speculative.draft_length`), at most
    `longest`. The number depends on `cost` and on the share of recent drafted tokens that were accepted.
    `cost` is the time of a step of several tokens together with its draft, as a multiple of the time of a
    step of one token. Without a `cost`, an estimate is used, so that no text depends on measured times.

    If the beginning of a text was already in the cache, the module reads only the rest, and its drafts are
    worse. If the module can't compute a text, the drafter makes no more drafts for this text.
    """

    def __init__(
        self, engine: MTPEngine, longest: int = LONGEST, cost: Callable[[int], float] | None = None
    ) -> None:
        check_mtp(engine.config)
        super().__init__(engine)
        self.longest, self.cost = longest, cost or self._estimated_cost
        self._sequence: GeneratedSequence | None = None  # the text that these counts are of
        self._right, self._wrong = COUNTS_AT_FIRST
        self._skipped = 0  # steps in turn in which no draft paid
        self.proposed = self.accepted = 0  # tokens of all drafts but the last of each text
        self._without: GeneratedSequence | None = None  # a text that it can't compute
        self._draft: list[int] = []  # the latest draft, which followed so many tokens of the answer
        self._draft_at = 0
        self._begin_at(0)

    def _begin_at(self, position: int) -> None:
        """Forget all pairs. The next hidden state belongs to the token at this position."""
        self._begin, self._cache = position, self.engine.start_mtp()
        self._text: list[int] = []  # the tokens of all vectors from there on, read by the module or not
        self._unread: list[np.ndarray] = []  # vectors [D] that aren't in a pair that it has read

    def step(
        self,
        tokens: np.ndarray,
        cache: Cache,
        lengths: np.ndarray | None = None,
        at: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Cache]:
        """Run the model's step and keep its hidden states for the module.

        Raises LimitError if the cache has several rows.
        """
        if len(cache.lengths) != 1 or lengths is not None:
            raise LimitError(f"the mtp module can draft for only one text, got {len(cache.lengths)} rows")
        past = int(cache.lengths[0])
        logits, hidden, cache = self.engine.step_with_hidden(tokens, cache, at)
        read = self._begin + len(self._text) - len(self._unread)
        if not read <= past <= self._begin + len(self._text):
            self._begin_at(past)  # another text, or one that was cut back behind what the module has read
            read = past
        self._text = [*self._text[: past - self._begin], *map(int, tokens[0])]
        self._unread = [*self._unread[: past - read], *hidden[0]]
        return logits, cache

    def propose(self, sequence: GeneratedSequence, count: int) -> list[int]:
        """Draft the tokens that may follow the sequence's text, at most `count`.

        The drafter chooses the number that saves the most time, which may be 0.
        """
        text = [*sequence.prompt, *sequence.tokens]
        self._note_accepted(sequence)
        length = self._length(min(count, self.longest))
        vectors = len(text) - 1 - self._begin  # of all tokens but the last, which the model hasn't read
        unread = vectors - (len(self._text) - len(self._unread))
        known = vectors <= len(self._text) and text[self._begin : -1] == self._text[:vectors]
        if sequence is self._without or not known or unread < 1 or length < 1:
            return []
        try:
            self._draft = self._predict(sequence, text[-unread:], np.stack(self._unread[:unread]), length)
        except NumericError:
            self._without = sequence
            self._begin_at(len(text) - 1)
            return []
        self._text, self._unread, self._draft_at = self._text[:vectors], [], len(sequence.tokens)
        return self._draft

    def _predict(
        self, sequence: GeneratedSequence, tokens: list[int], vectors: np.ndarray, length: int
    ) -> list[int]:
        """Draft `length` tokens: after the text's pairs, the module reads its own tokens and hidden
        states.
        """
        draft: list[int] = []
        logits, hidden, cache = self.engine.step_mtp(np.array([tokens]), vectors[None], self._cache)
        read = cache.lengths
        while True:
            token = sequence.choose(logits[0, -1], draft)
            draft.append(token)
            if len(draft) == length or token in sequence.stop_ids:
                break
            logits, hidden, cache = self.engine.step_mtp(np.array([[token]]), hidden[:, -1:], cache)
        self._cache = cache.truncate(read)
        return draft

    def _length(self, most: int) -> int:
        """Return how many tokens to draft, at most `most`."""
        length = draft_length(self._right / (self._right + self._wrong), most, self.cost)
        self._skipped = 0 if length else self._skipped + 1
        return min(most, 1) if self._skipped and self._skipped % TRIED == 0 else length

    def _estimated_cost(self, tokens: int) -> float:
        """Return an estimate of the time of a step of several tokens with its draft, in steps of one token.

        For each drafted token, it adds the module's layer and the token table, which counts as one layer.
        """
        return estimated_cost(tokens) + 2 / (1 + len(self.config.layers)) * (tokens - 1)

    def _note_accepted(self, sequence: GeneratedSequence) -> None:
        """Record how many tokens of the latest draft are in the text."""
        if sequence is not self._sequence:
            self._sequence, self._draft, self._skipped = sequence, [], 0
            self._right, self._wrong = COUNTS_AT_FIRST
        if not self._draft:
            return
        written = sequence.tokens[self._draft_at :]
        agreed = 0
        for drafted, token in zip(self._draft, written, strict=False):
            if drafted != token:
                break
            agreed += 1
        self.proposed += len(self._draft)
        self.accepted += agreed
        self._right = self._right * SHARE_KEPT + agreed
        self._wrong = self._wrong * SHARE_KEPT + (agreed < len(self._draft))
        self._draft = []
