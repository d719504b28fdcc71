"""Continuous batching: several texts share the steps of an engine, and a text may join or leave at each step.

A step reads all weights whether it computes one token or eight, so further texts in a step cost almost
nothing. Each text has its own sampler, random numbers and row of the cache, so its result doesn't depend on
the other texts. Prompts are read in chunks between the steps:

    row 0   [A A A A A][D][D]     [D]     [D]         prompt A is read; each [D] decodes a token of the answer
    row 1              [B B B B B]   [B B B B B][D]   prompt B is read in chunks, one between two steps

The server calls `Batch.step` for each step. `Batch.run` generates a list of texts. A text that is generated
alone is decoded speculatively, with drafts from its own tokens, if speculative decoding gives the same
bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from ...refimpl.config import Config
from ...refimpl.decoding.logprobs import TokenLogprob, token_logprob
from ...refimpl.decoding.loop import GeneratedSequence
from ...refimpl.decoding.speculative import PromptLookup, Speculation
from ...refimpl.decoding.stop import limit_new_tokens
from ...refimpl.engine.protocol import Cache, Engine
from ...refimpl.errors import LimitError, TfmError
from .generate import StreamedText
from .prefixes import Prefixes
from .timed_engine import LONGEST_DRAFT, TimedEngine

# Tokens of a prompt that are read between two steps: few enough that texts keep coming.
CHUNK = 128


@dataclass(eq=False)
class Row:
    """A row of the cache: its sequence, the client that owns it, and how much of the prompt has been read.

    `drafts` says whether drafts may be made for the row. If `prompt_logprobs` is a list, each token of the
    prompt except the first adds an item to the list: the token's log-probability, and the `sequence.logprobs`
    likeliest tokens at its position. A stop string in the row's `text` ends the sequence.
    """

    sequence: GeneratedSequence
    owner: str = ""
    drafts: bool = True
    prompt_logprobs: list[TokenLogprob] | None = None
    text: StreamedText | None = None
    read: int = field(default=0, init=False)
    shared: int = field(default=0, init=False)  # tokens of the prompt that needn't be read
    failed: bool = field(default=False, init=False)
    speculation: Speculation | None = field(default=None, init=False)

    @property
    def reads(self) -> bool:
        return self.read < len(self.sequence.prompt)

    @property
    def ended(self) -> bool:
        return self.sequence.finish_reason is not None

    @property
    def has_encoder(self) -> bool:
        return self.sequence.encoder_ids is not None

    @property
    def shares(self) -> bool:
        """Return whether this row and other rows may reuse each other's cache for prompts that begin alike.

        This is true if the row has no error, if its cache depends only on the prompt's tokens, and if the
        logits of its prompt aren't needed.
        """
        return not (self.failed or self.has_encoder or self.prompt_logprobs is not None)

    def note_prompt(self, logits: np.ndarray) -> None:
        """Record log-probabilities of the prompt's next tokens, from the logits [T, N] of the tokens just
        read."""
        if self.prompt_logprobs is not None:
            following = self.sequence.prompt[self.read + 1 :]
            for token, row in zip(following, logits, strict=False):
                self.prompt_logprobs.append(token_logprob(row, token, self.sequence.logprobs or 0))

    def push(self, token: int | None) -> str:
        """Add the next token, or None for a stop token. Return the characters that later tokens can no longer
        change.
        """
        if self.text is None:
            return ""
        part = "" if token is None else self.text.push(token)
        if self.ended:
            part += self.text.finish()
        if self.text.ended:
            self.sequence.finish("stop")
        return part


R = TypeVar("R", bound=Row)


class Outcome(NamedTuple, Generic[R]):
    """The result of a step for a row: its next token (None for a stop token) and its new characters, or the
    error that ended the row.
    """

    row: R
    token: int | None
    text: str = ""
    error: TfmError | None = None

    @property
    def sequence(self) -> GeneratedSequence:
        return self.row.sequence


def fit(one: GeneratedSequence, name: str, config: Config) -> None:
    """Limit the number of new tokens of a sequence, so that the prompt and the new tokens fit in the context.

    Raises LimitError, which begins with `name`, if the prompt or the encoder's text doesn't fit or is
    empty.
    """
    try:
        one.max_new_tokens = limit_new_tokens(config, len(one.prompt), one.max_new_tokens)
    except LimitError as error:
        raise type(error)(f"{name}: {error}") from None
    if one.encoder_ids is not None and not 1 <= len(one.encoder_ids) <= config.context:
        why = "shorten the text" if one.encoder_ids else "give a text that isn't empty"
        raise LimitError(
            f"{name} has {len(one.encoder_ids)} tokens, but must have 1 to {config.context} tokens: {why}"
        )


class Batch(Generic[R]):
    """The texts that an engine is generating, each with a row of the cache.

    If a prompt begins like one of `prefixes` or like another row of the same owner, the shared beginning
    isn't read again. `drafting` is an engine for speculative decoding, or None if speculative decoding might
    change bits. The batch uses `drafting` only while a single text is generated, because several texts with
    drafts would each need a step of their own.

    A sequence leaves the batch at the first step after its `finish_reason` was set, by the sequence's own
    rules or by a call of `finish`. If the engine fails, `step` raises the exception, and the batch is empty
    afterwards.
    """

    def __init__(
        self,
        engine: Engine,
        chunk: int = CHUNK,
        prefixes: Prefixes | None = None,
        drafting: TimedEngine | None = None,
    ) -> None:
        self._engine, self._chunk, self._prefixes, self._drafting = engine, chunk, prefixes, drafting
        self._rows: list[R] = []
        self._reading: deque[R] = deque()  # whose turn it is to read a chunk
        self._cache: Cache | None = None

    def run(self, rows: Sequence[R], size: int) -> Iterator[Outcome[R]]:
        """Generate all texts, at most `size` at a time, and yield the outcomes of each step.

        All waiting prompts are read before the next step, since in a list of texts nobody waits for the first
        token of a single one. If a prompt doesn't fit in the context, an error is raised before any text is
        begun. The error names the prompt by its position, counted from 1. An error of a single text is raised
        too, and ends the run.
        """
        if size < 1:
            raise LimitError(f"`batch` must be at least 1, got {size}")
        for place, row in enumerate(rows, 1):
            fit(row.sequence, f"text {place}", self._engine.config)
        waiting = deque(rows)
        while waiting or self.running:
            joining: list[R] = []
            while waiting and self.running + len(joining) < size and self.takes(waiting[0]):
                joining.append(waiting.popleft())
            for outcome in self.step(joining, all_prompts=True):
                if outcome.error is not None:
                    raise outcome.error
                yield outcome

    @property
    def running(self) -> int:
        """The number of texts that haven't ended."""
        return sum(not row.ended for row in self._rows)

    def takes(self, row: R) -> bool:
        """Return whether a row can join at the next step.

        An encoder's output is one array for all rows. So rows with an encoder join together, when no other
        text is being generated.
        """
        return not (row.has_encoder and self.running)

    def step(self, joining: Sequence[R] = (), *, all_prompts: bool = False) -> Iterator[Outcome[R]]:
        """Read a chunk of one prompt, then generate a token of each text that has read its whole prompt.

        Yields the outcomes. With `all_prompts`, all waiting prompts are read, not only a chunk of one. A text
        with a draft may get several tokens.
        """
        try:
            self._keep_prefixes()
            self._arrange(joining)
            yield from self._read_prompts()
            while all_prompts and self._reading:
                yield from self._read_prompts()
            yield from self._decode()
        except BaseException:
            self._rows, self._cache = [], None
            self._reading.clear()
            raise

    def _arrange(self, joining: Sequence[R]) -> None:
        """Give the rows of ended texts to joining texts, then add or remove rows of the cache."""
        if self._cache is not None and not joining and not any(row.ended for row in self._rows):
            return  # as in most steps
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
        if self._cache is None or not kept or any(row.has_encoder for row in joining):
            self._cache = self._start()
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

    def _start(self) -> Cache:
        """Return an empty cache for the rows. If the model has an encoder, the encoder first reads the rows'
        texts.
        """
        sources = [row.sequence.encoder_ids for row in self._rows]
        texts = [np.asarray(source, np.int64) for source in sources if source is not None]
        if not texts:
            return self._engine.start(len(self._rows))
        lengths = np.array([len(text) for text in texts])
        return self._engine.start(len(texts), _padded(texts, lengths), lengths)

    def _keep_prefixes(self) -> None:
        """Copy the cache of each text that has just ended into the prefixes, for later prompts.

        Texts that ended with an error are left out, because their cache may contain NaN.
        """
        if self._prefixes is None or self._cache is None:
            return
        for i, row in enumerate(self._rows):
            if row.ended and row.shares:
                sequence = row.sequence
                self._prefixes.keep(row.owner, sequence.prompt, sequence.tokens, self._cache, i)

    def _go_on(self, row: R) -> None:
        """Copy into a row the cache of more of its prompt, if an earlier text or another row begins like this
        prompt.
        """
        if self._prefixes is None or not row.shares:
            return
        assert self._cache is not None
        prompt, place, lengths = row.sequence.prompt, self._rows.index(row), self._cache.lengths
        found = self._prefixes.find(row.owner, prompt, row.read)
        most, one = (row.read, None) if found is None else found
        for i, other in enumerate(self._rows):
            if i != place and other.owner == row.owner and other.shares:
                texts = (other.sequence.prompt, other.sequence.tokens)
                same = self._prefixes.shared(*texts, int(lengths[i]), prompt)
                if same > most and same >= self._cache.floor[i]:
                    most, one = same, i
        if one is not None:
            cache = self._cache.copy(one) if isinstance(one, int) else one
            self._cache = self._cache.put(place, cache, most)
            self._prefixes.tokens += most - row.read
            row.shared += most - row.read
            row.read = most

    def _read_prompts(self) -> Iterator[Outcome[R]]:
        """Read the next chunk of one prompt. If the prompt is complete, yield the outcome with the text's
        first token.

        Prompts take turns, so that a short prompt needn't wait for a long one. Beside an encoder, a decoder's
        prompts are short, so all waiting prompts are read together."""
        if not self._reading:
            return
        rows = [self._reading.popleft()]
        if rows[0].has_encoder:
            rows += self._reading
            self._reading.clear()
        self._go_on(rows[0])
        most, each = self._chunk, rows[0].prompt_logprobs is not None
        if each:  # logits are an array over all rows
            most = max(1, most // len(self._rows))
        parts = {row: row.sequence.prompt[row.read : row.read + most] for row in rows}
        logits = self._step(parts, each=each)
        for row, part in parts.items():
            of_row = logits[self._rows.index(row)]
            row.note_prompt(of_row)
            row.read += len(part)
            if row.reads:
                self._reading.append(row)
            else:
                yield _sampled(row, of_row[-1])

    def _decode(self) -> Iterator[Outcome[R]]:
        """Generate the next token of each text that has read its whole prompt, and yield the outcomes.

        If the batch has only one text, and drafts may be made for it, the text may get several tokens.
        """
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

    def _speculate(self, engine: TimedEngine, row: R) -> Iterator[Outcome[R]]:
        """Generate the next tokens of the only text, with speculative decoding.

        Any error here belongs to this text, so an error may end the whole batch.
        """
        assert self._cache is not None
        if row.speculation is None:
            lookup = PromptLookup(cost=engine.cost)
            row.speculation = Speculation(
                engine, row.sequence, lookup, self._cache, LONGEST_DRAFT, self._chunk
            )
        row.speculation.cache = self._cache
        for token in row.speculation.step():
            yield outcome(row, token)
        self._cache = row.speculation.cache

    def _step(self, new: Mapping[R, Sequence[int]], *, each: bool = False) -> np.ndarray:
        """Run one step of the engine on the new tokens of some rows, and return logits.

        Shape: [B, 1, N], after the last new token of each row, or with `each` [B, T, N], after every new
        token. Rows that `new` doesn't name get no tokens."""
        assert self._cache is not None
        parts = [new.get(row, ()) for row in self._rows]
        lengths = np.array([len(part) for part in parts], np.int64)
        tokens = _padded(parts, lengths)
        at = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape) if each else None
        logits, self._cache = self._engine.step(tokens, self._cache, lengths, at)
        return logits


def outcome(row: R, token: int | None) -> Outcome[R]:
    """Add a row's next token, and return the outcome. If the tokenizer fails, the sequence ends and the
    outcome contains the error.
    """
    try:
        return Outcome(row, token, row.push(token))
    except TfmError as error:
        return _failed(row, error)


def _sampled(row: R, logits: np.ndarray) -> Outcome[R]:
    """Sample the row's next token from its logits, and return the outcome. An error ends only this row's
    text.
    """
    try:
        token = row.sequence.sample(logits)
    except TfmError as error:
        return _failed(row, error)
    return outcome(row, token)


def _failed(row: R, error: TfmError) -> Outcome[R]:
    row.sequence.finish()
    row.failed = True
    return Outcome(row, None, error=error)


def _padded(parts: Sequence[Sequence[int] | np.ndarray], lengths: np.ndarray) -> np.ndarray:
    """Return the parts as the rows of an array [B, T], padded on the right with zeros."""
    rows = np.zeros((len(parts), lengths.max()), np.int64)
    for row, part, length in zip(rows, parts, lengths, strict=True):
        row[:length] = part
    return rows
