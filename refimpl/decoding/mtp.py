"""Drafts of a model's own module, which reads the model's vectors (`ops.mtp`)."""

from __future__ import annotations

import numpy as np

from ..engine.protocol import Cache, MTPEngine, check_mtp
from ..engine.wrapper import EngineWrapper
from ..errors import LimitError, NumericError
from .loop import GeneratedSequence

DRAFTED = 2  # tokens of a draft: the module was trained for one, and is applied to its own for the next


class MTPDrafter(EngineWrapper[MTPEngine]):
    """Drafts of a model's module, and the model itself as an engine that notes its vectors for it.

    A module reads pairs of a token and the model's vector of the token before it. The vectors come from the
    model's steps: so the text is generated with this object as its engine, `speculate(drafter, sequence,
    drafter)`. The module reads the pairs of a text when it is first asked for a draft, and from then on those
    of the tokens that were accepted, with the model's vectors; what it read of its own is cut off again.

    Of a text whose beginning was in the cache already the module reads the rest: its drafts are worse then.
    Where it can't compute a text, it has no more drafts of that.
    """

    def __init__(self, engine: MTPEngine, drafted: int = DRAFTED) -> None:
        check_mtp(engine.config)
        super().__init__(engine)
        self.drafted = drafted
        self.proposed = self.accepted = 0  # tokens of all drafts
        self._without: GeneratedSequence | None = None  # a text that it can't compute
        self._draft: list[int] = []  # the latest draft, which followed so many tokens of the answer
        self._draft_at = 0
        self._begin_at(0)

    def _begin_at(self, position: int) -> None:
        """Forget all pairs; the next vector is that of the token at this position."""
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
        """The model's step, whose vectors are noted; LimitError for several rows."""
        if len(cache.lengths) != 1 or lengths is not None:
            raise LimitError(f"a module drafts for one text, got {len(cache.lengths)} rows")
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
        """Up to `count` tokens that may follow the sequence's text, at most `drafted`."""
        text = [*sequence.prompt, *sequence.tokens]
        self._note_accepted(sequence)
        vectors = len(text) - 1 - self._begin  # of all tokens but the last, which the model hasn't read
        unread = vectors - (len(self._text) - len(self._unread))
        known = vectors <= len(self._text) and text[self._begin : -1] == self._text[:vectors]
        if sequence is self._without or not known or unread < 1:
            return []
        try:
            self._draft = self._predict(sequence, text[-unread:], np.stack(self._unread[:unread]), count)
        except NumericError:
            self._without = sequence
            self._begin_at(len(text) - 1)
            return []
        self._text, self._unread, self._draft_at = self._text[:vectors], [], len(sequence.tokens)
        self.proposed += len(self._draft)
        return self._draft

    def _predict(
        self, sequence: GeneratedSequence, tokens: list[int], vectors: np.ndarray, count: int
    ) -> list[int]:
        """A draft: after the pairs of the text the module reads its own tokens and vectors."""
        draft: list[int] = []
        logits, hidden, cache = self.engine.step_mtp(np.array([tokens]), vectors[None], self._cache)
        read = cache.lengths
        while True:
            token = sequence.choose(logits[0, -1], draft)
            draft.append(token)
            if len(draft) == min(count, self.drafted) or token in sequence.stop_ids:
                break
            logits, hidden, cache = self.engine.step_mtp(np.array([[token]]), hidden[:, -1:], cache)
        self._cache = cache.truncate(read)
        return draft

    def _note_accepted(self, sequence: GeneratedSequence) -> None:
        """Count the tokens of the latest draft that the text has."""
        written = sequence.tokens[self._draft_at :]
        for drafted, token in zip(self._draft, written, strict=False):
            if drafted != token:
                break
            self.accepted += 1
        self._draft = []
