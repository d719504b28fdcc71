"""Continuous batching for requests that come at any time: prompts are read in chunks between the steps.

`runtime.tasks.continuous_batching` knows all its texts from the start and reads a prompt as a whole. Here a
text joins whenever there is a row, and a long prompt doesn't hold up the others:

    row 0   [A A A A A][D][D]     [D]     [D]         A's prompt is read, then a token a step
    row 1              [B B B B B]   [B B B B B][D]   B's in chunks, one between two steps

A text that is generated alone gets drafts from itself, where they change no bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ...refimpl.decoding.logprobs import TokenLogprob, token_logprob
from ...refimpl.decoding.loop import GeneratedSequence
from ...refimpl.decoding.speculative import PromptLookup, Speculation
from ...refimpl.engine.protocol import Cache, Engine
from ...refimpl.errors import TfmError
from ..tasks.timed_engine import LONGEST_DRAFT, TimedEngine
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
    """A row of the cache: its sequence, whose that is, and how many tokens of the prompt it has read.

    Without `drafts` none are made for it. In `prompt_logprobs`, where it isn't None, each token of the prompt
    but the first is noted as it is read, with as many likeliest ones as the sequence's `logprobs` says.
    """

    sequence: GeneratedSequence
    owner: str = ""
    drafts: bool = True
    prompt_logprobs: list[TokenLogprob] | None = None
    read: int = field(default=0, init=False)
    failed: bool = field(default=False, init=False)
    speculation: Speculation | None = field(default=None, init=False)

    @property
    def reads(self) -> bool:
        return self.read < len(self.sequence.prompt)

    @property
    def ended(self) -> bool:
        return self.sequence.finish_reason is not None

    def note_prompt(self, logits: np.ndarray) -> None:
        """Note the tokens of the prompt that follow those being read, from the logits [T, N] after these."""
        if self.prompt_logprobs is not None:
            following = self.sequence.prompt[self.read + 1 :]
            for token, row in zip(following, logits, strict=False):
                self.prompt_logprobs.append(token_logprob(row, token, self.sequence.logprobs or 0))


class Batch:
    """The texts that an engine is generating, each with a row of the cache.

    A prompt that begins like one of `prefixes` isn't read so far: its owner's, and the same rows. `drafting`
    is the engine for drafts, where they change no bit: for one text alone, since several texts with several
    new tokens each take a step of the engine each.

    A sequence whose `finish_reason` is set, by its own rules or by whoever called `finish`, leaves at the
    next step. After an exception of `step`, which is the engine's, the batch is empty.
    """

    def __init__(
        self,
        engine: Engine,
        chunk: int = CHUNK,
        prefixes: Prefixes | None = None,
        drafting: TimedEngine | None = None,
    ) -> None:
        self._engine, self._chunk, self._prefixes, self._drafting = engine, chunk, prefixes, drafting
        self._rows: list[Row] = []
        self._reading: deque[Row] = deque()  # whose turn it is to read a chunk
        self._cache: Cache | None = None

    def step(self, joining: Sequence[Row] = ()) -> Iterator[Outcome]:
        """A chunk of one prompt, and one more token, or several, of each text whose prompt was read."""
        try:
            self._keep_prefixes()
            self._arrange(joining)
            self._put_prefixes(joining)
            yield from self._read_prompt()
            yield from self._decode()
        except BaseException:
            self._rows, self._cache = [], None
            self._reading.clear()
            raise

    def _arrange(self, joining: Sequence[Row]) -> None:
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
            if row.ended and not row.failed and row.prompt_logprobs is None:
                sequence = row.sequence
                self._prefixes.keep(row.owner, sequence.prompt, sequence.tokens, self._cache, i)

    def _put_prefixes(self, joining: Sequence[Row]) -> None:
        """Begin prompts with what was kept of their first tokens."""
        if self._prefixes is None:
            return
        for row in joining:
            if row.prompt_logprobs is not None:  # all of its tokens' logits are needed
                continue
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
        most = self._chunk
        if row.prompt_logprobs is not None:  # logits are an array over all rows
            most = max(1, most // len(self._rows))
        part = row.sequence.prompt[row.read : row.read + most]
        logits = self._step({row: part}, each=row.prompt_logprobs is not None)[self._rows.index(row)]
        row.note_prompt(logits)
        row.read += len(part)
        if row.reads:
            self._reading.append(row)
        else:
            yield _sampled(row, logits[-1])

    def _decode(self) -> Iterator[Outcome]:
        """The next token of each text that has one; with a draft, several of one that is alone."""
        tokens = {row: row.sequence.tokens[-1:] for row in self._rows if not (row.reads or row.ended)}
        if not tokens:
            return
        if self._drafting is not None and len(self._rows) == 1 and self._rows[0].drafts:
            yield from self._speculate(self._drafting, self._rows[0])
            return
        logits = self._step(tokens)
        for i, row in enumerate(self._rows):
            if row in tokens:
                yield _sampled(row, logits[i, 0])

    def _speculate(self, engine: TimedEngine, row: Row) -> Iterator[Outcome]:
        """The next tokens of a text that is alone. An error is the text's, and so may end the batch."""
        assert self._cache is not None
        if row.speculation is None:
            lookup = PromptLookup(cost=engine.cost)
            row.speculation = Speculation(
                engine, row.sequence, lookup, self._cache, LONGEST_DRAFT, self._chunk
            )
        row.speculation.cache = self._cache
        for token in row.speculation.step():
            yield Outcome(row.sequence, token)
        self._cache = row.speculation.cache

    def _step(self, new: Mapping[Row, Sequence[int]], *, each: bool = False) -> np.ndarray:
        """Feed some rows their tokens: logits [B, 1, N] after the last ones, or [B, T, N] after each; other
        rows have none."""
        assert self._cache is not None
        lengths = np.array([len(new.get(row, ())) for row in self._rows], np.int64)
        tokens = np.zeros((len(lengths), lengths.max()), np.int64)
        for i, row in enumerate(self._rows):
            tokens[i, : lengths[i]] = new.get(row, ())
        at = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape) if each else None
        logits, self._cache = self._engine.step(tokens, self._cache, lengths, at)
        return logits


def _sampled(row: Row, logits: np.ndarray) -> Outcome:
    """The sequence's next token; an error is its own and ends no other text."""
    sequence = row.sequence
    try:
        return Outcome(sequence, sequence.sample(logits))
    except TfmError as error:
        sequence.finish()
        row.failed = True
        return Outcome(sequence, None, error)
