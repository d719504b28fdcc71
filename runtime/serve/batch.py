"""Continuous batching for requests that come at any time: prompts are read in chunks between the steps.

`runtime.tasks.continuous_batching` knows all its texts from the start and reads a prompt as a whole. Here a
text joins whenever there is a row, and a long prompt doesn't hold up the others:

    row 0   [A A A A A][D][D]     [D]     [D]         A's prompt is read, then a token a step
    row 1              [B B B B B]   [B B B B B][D]   B's in chunks, one between two steps
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...refimpl.decoding.loop import GeneratedSequence
from ...refimpl.engine.protocol import Cache, Engine
from ...refimpl.errors import TfmError
from .prefixes import Prefixes

# Tokens of a prompt that are read between two steps: few enough that texts keep coming.
CHUNK = 128


class Outcome(NamedTuple):
    """What a step gave a sequence: its next token, None for a stop token, or why there can be none."""

    sequence: GeneratedSequence
    token: int | None
    error: TfmError | None = None


@dataclass(eq=False)
class Row:
    """A row of the cache: its sequence, whose that is, and how many tokens of the prompt it has read."""

    sequence: GeneratedSequence
    owner: str
    read: int = 0
    failed: bool = False

    @property
    def reads(self) -> bool:
        return self.read < len(self.sequence.prompt)

    @property
    def ended(self) -> bool:
        return self.sequence.finish_reason is not None


class Batch:
    """The texts that an engine is generating, each with a row of the cache.

    A prompt that begins like one of `prefixes` isn't read so far: its owner's, and the same rows.

    A sequence whose `finish_reason` is set, by its own rules or by whoever called `finish`, leaves at the
    next step. After an exception of `step`, which is the engine's, the batch is empty.
    """

    def __init__(self, engine: Engine, chunk: int = CHUNK, prefixes: Prefixes | None = None) -> None:
        self._engine, self._chunk, self._prefixes = engine, chunk, prefixes
        self._rows: list[Row] = []
        self._reading: deque[Row] = deque()  # whose turn it is to read a chunk
        self._cache: Cache | None = None

    def step(
        self, joining: Sequence[GeneratedSequence] = (), owners: Sequence[str] | None = None
    ) -> Iterator[Outcome]:
        """A chunk of one prompt, and one more token of each text whose prompt was read; `owners` says whose
        the joining texts are."""
        try:
            self._keep_prefixes()
            pairs = zip(joining, owners or [""] * len(joining), strict=True)
            rows = [Row(sequence, owner) for sequence, owner in pairs]
            self._arrange(rows)
            self._put_prefixes(rows)
            yield from self._read_prompt()
            yield from self._decode()
        except BaseException:
            self._rows, self._cache = [], None
            self._reading.clear()
            raise

    def _arrange(self, joining: list[Row]) -> None:
        """Rows of texts that ended go to those that join; then rows are added or taken away."""
        self._reading.extend(joining)
        waiting = deque(joining)
        rows = [waiting.popleft() if row.ended and waiting else row for row in self._rows]
        kept = [i for i, row in enumerate(rows) if not row.ended]
        added = [*waiting]
        self._rows = [*(rows[i] for i in kept), *added]
        self._reading = deque(row for row in self._reading if not row.ended)
        if not self._rows:
            self._cache = None
            return
        if self._cache is None or not kept:
            self._cache = self._engine.start(len(self._rows))
            return
        if added or len(kept) < len(rows):
            # A new row is a copy of the shortest one, which is then emptied.
            shortest = min(kept, key=self._cache.lengths.tolist().__getitem__)
            self._cache = self._cache.select(np.array(kept + [shortest] * len(added)))
        lengths = self._cache.lengths.copy()
        for i, row in enumerate(self._rows):
            if row in joining:
                lengths[i] = 0
        self._cache = self._cache.truncate(lengths)

    def _keep_prefixes(self) -> None:
        """Keep what texts that ended have in the cache; what an error ended may hold no numbers."""
        if self._prefixes is None or self._cache is None:
            return
        for i, row in enumerate(self._rows):
            if row.ended and not row.failed:
                sequence = row.sequence
                self._prefixes.keep(row.owner, sequence.prompt, sequence.tokens, self._cache, i)

    def _put_prefixes(self, joining: list[Row]) -> None:
        """Begin prompts with what was kept of their first tokens."""
        if self._prefixes is None:
            return
        for row in joining:
            found = self._prefixes.find(row.owner, row.sequence.prompt)
            if found is not None and not row.ended:
                assert self._cache is not None
                row.read, cache = found
                self._cache = self._cache.put(self._rows.index(row), cache, row.read)

    def _read_prompt(self) -> Iterator[Outcome]:
        """The next chunk of a prompt; prompts take turns, so that a short one needn't wait for a long one."""
        if not self._reading:
            return
        row = self._reading.popleft()
        part = row.sequence.prompt[row.read : row.read + self._chunk]
        logits = self._step({row: part})
        row.read += len(part)
        if row.reads:
            self._reading.append(row)
        else:
            yield _sampled(row, logits[self._rows.index(row)])

    def _decode(self) -> Iterator[Outcome]:
        """The next token of each text that has one."""
        tokens = {row: row.sequence.tokens[-1:] for row in self._rows if not (row.reads or row.ended)}
        if not tokens:
            return
        logits = self._step(tokens)
        for i, row in enumerate(self._rows):
            if row in tokens:
                yield _sampled(row, logits[i])

    def _step(self, new: Mapping[Row, Sequence[int]]) -> np.ndarray:
        """Feed some rows their tokens: logits [B, N] after the last ones; other rows have none."""
        assert self._cache is not None
        lengths = np.array([len(new.get(row, ())) for row in self._rows], np.int64)
        tokens = np.zeros((len(lengths), lengths.max()), np.int64)
        for i, row in enumerate(self._rows):
            tokens[i, : lengths[i]] = new.get(row, ())
        logits, self._cache = self._engine.step(tokens, self._cache, lengths)
        return logits[:, 0]


def _sampled(row: Row, logits: np.ndarray) -> Outcome:
    """The sequence's next token; an error is its own and ends no other text."""
    sequence = row.sequence
    try:
        return Outcome(sequence, sequence.sample(logits))
    except TfmError as error:
        sequence.finish()
        row.failed = True
        return Outcome(sequence, None, error)
