"""Many texts at a time: waiting sequences join the running batch as others finish.

A step reads all weights whether it computes one token or eight, so sequences that share it are nearly free. A
sequence owns its sampler, its random numbers and its row of the cache, and its prompt is read alone when it
joins, so its text doesn't depend on the others.

    row 0   [A A A A A][D D D D …      A ends, D takes its row
    row 1   [B B B B B B B B][E E …
    row 2   [C C C][- - - - -          nothing waits: the row leaves the cache
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import TypeVar

import numpy as np

from ...refimpl.config import Config
from ...refimpl.decoding.loop import CHUNK, GeneratedSequence
from ...refimpl.decoding.stop import limit_new_tokens
from ...refimpl.engine.protocol import Cache, Engine
from ...refimpl.errors import LimitError

R = TypeVar("R")
Steps = Generator[tuple[GeneratedSequence, int | None], None, R]
Running = list[GeneratedSequence | None]  # by row of the cache; None has ended


def run(engine: Engine, sequences: Sequence[GeneratedSequence], size: int, chunk: int = CHUNK) -> Steps[None]:
    """Generate all sequences, at most `size` at a time.

    Yields (sequence, its next token) as they come; None stands for a stop token. Whoever reads the tokens may
    end a sequence with its `finish()` (a stop string). Prompts that don't fit the context are refused, by
    their place from 1, before any is begun.
    """
    if size < 1:
        raise LimitError(f"a batch must have at least one row, got {size}")
    for place, one in enumerate(sequences, 1):
        fit(one, f"text {place}", engine.config)
    if any(one.encoder_ids is not None for one in sequences):
        lengths = {len(one.prompt) for one in sequences}
        if len(lengths) > 1:
            raise LimitError(f"answers must begin with equally many tokens, got {sorted(lengths)}")
        for first in range(0, len(sequences), size):
            yield from _together(engine, sequences[first : first + size])
        return
    if not sequences:
        return
    waiting = deque(sequences)
    running: Running = [None] * min(size, len(sequences))
    cache = engine.start(len(running))
    while running:
        for row, one in enumerate(running):
            while waiting and one is None:
                one = waiting.popleft()
                logits, cache = _prefill(engine, cache, row, one.prompt, chunk)
                yield one, one.sample(logits)
                if one.finish_reason is not None:
                    one = None
            running[row] = one
        running, cache = yield from _step(engine, running, cache)


def fit(one: GeneratedSequence, name: str, config: Config) -> None:
    """Limit the sequence to the tokens that fit the context; LimitError where its prompt doesn't."""
    try:
        one.max_new_tokens = limit_new_tokens(config, len(one.prompt), one.max_new_tokens)
    except LimitError as error:
        raise LimitError(f"{name}: {error}") from None
    if one.encoder_ids is not None and not 1 <= len(one.encoder_ids) <= config.context:
        why = "shorten it" if one.encoder_ids else "there is nothing to read"
        raise LimitError(
            f"{name} has {len(one.encoder_ids)} tokens, the model reads 1 to {config.context}: {why}"
        )


def _together(engine: Engine, sequences: Sequence[GeneratedSequence]) -> Steps[None]:
    """Sequences whose texts an encoder reads in one batch: its output is one array, so none can join
    later."""
    sources = [np.asarray(one.encoder_ids, np.int64) for one in sequences]
    lengths = np.array([len(source) for source in sources])
    padded = np.zeros((len(sequences), lengths.max()), np.int64)
    for row, source in enumerate(sources):
        padded[row, : len(source)] = source
    cache = engine.start(len(sequences), padded, lengths)
    logits, cache = engine.step(np.array([one.prompt for one in sequences]), cache)
    for row, one in enumerate(sequences):
        yield one, one.sample(logits[row, 0])
    running: Running = [one if one.finish_reason is None else None for one in sequences]
    while running:
        running, cache = yield from _step(engine, running, cache)


def _step(engine: Engine, running: Running, cache: Cache) -> Steps[tuple[Running, Cache]]:
    """One more token for each running sequence; the rows of the others leave the cache."""
    rows = [row for row, one in enumerate(running) if one is not None]
    sequences = [one for one in running if one is not None]
    if not sequences:
        return [], cache
    if len(rows) < len(running):
        cache = cache.select(np.array(rows))
    logits, cache = engine.step(np.array([[one.tokens[-1]] for one in sequences]), cache)
    for row, one in enumerate(sequences):
        yield one, one.sample(logits[row, 0])
    return [one if one.finish_reason is None else None for one in sequences], cache


def _prefill(
    engine: Engine, cache: Cache, row: int, prompt: Sequence[int], chunk: int
) -> tuple[np.ndarray, Cache]:
    """Read a prompt into its row of the cache while the other rows wait: (logits of its last token,
    cache)."""
    lengths = cache.lengths.copy()
    lengths[row] = 0
    cache = cache.truncate(lengths)
    logits = np.zeros(0)
    for start in range(0, len(prompt), chunk):
        part = np.asarray(prompt[start : start + chunk], np.int64)
        tokens = np.zeros((len(lengths), len(part)), np.int64)
        tokens[row] = part
        new_lengths = np.zeros(len(lengths), np.int64)
        new_lengths[row] = len(part)
        output, cache = engine.step(tokens, cache, new_lengths)
        logits = output[row, 0]
    return logits, cache
