"""Many texts at a time: a queue of rows that join the running batch as others finish.

A step reads all weights whether it makes one token or eight, so rows that share it are nearly free. A row
owns its sampler, its random numbers and its place in the cache, and is read alone when it joins: it
becomes what it would be by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import numpy as np

from ...refimpl.decoding.loop import CHUNK, GeneratedSequence
from ...refimpl.decoding.stop import limit_new_tokens
from ...refimpl.engine.protocol import Engine
from ...refimpl.errors import LimitError

R = TypeVar("R")
Steps = Generator[tuple[GeneratedSequence, int | None], None, R]


def run(engine: Engine, rows: Sequence[GeneratedSequence], size: int, chunk: int = CHUNK) -> Steps[None]:
    """Generate all rows, at most `size` at a time: (row, its next token) as they come, None for a stop token.

    Whoever reads the tokens may end a row with its `finish()` (a stop string). Rows that don't fit the
    context are refused, by their number from 1, before any is begun.
    """
    if size < 1:
        raise LimitError(f"a batch must have at least one row, got {size}")
    for row in rows:
        _fit(row, engine.config.context)
    if any(row.encoder_ids is not None for row in rows):
        if len(begins := {len(row.prompt) for row in rows}) > 1:
            raise LimitError(f"answers must begin with equally many tokens, got {sorted(begins)}")
        for first in range(0, len(rows), size):
            yield from _together(engine, rows[first : first + size])
        return
    waiting = deque(rows)
    running: list[GeneratedSequence | None] = [None] * min(size, len(rows))
    cache: Any = engine.start(len(running)) if running else None
    while running:
        for place, row in enumerate(running):
            while waiting and row is None:
                row = waiting.popleft()
                logits, cache = _read(engine, cache, place, row.prompt, chunk)
                yield row, row.sample(logits)
                row = None if row.finish_reason is not None else row
            running[place] = row
        running, cache = yield from _step(engine, running, cache)


def _fit(row: GeneratedSequence, context: int) -> None:
    """Leave the row the tokens that there is room for; LimitError where its texts don't fit."""
    try:
        row.max_new_tokens = limit_new_tokens(context, len(row.prompt), row.max_new_tokens)
    except LimitError as error:
        raise LimitError(f"text {row.index + 1}: {error}") from None
    if row.encoder_ids is not None and not 1 <= len(row.encoder_ids) <= context:
        why = "shorten it" if row.encoder_ids else "there is nothing to read"
        raise LimitError(
            f"text {row.index + 1} has {len(row.encoder_ids)} tokens, the model reads 1 to {context}: {why}"
        )


def _together(engine: Engine, rows: Sequence[GeneratedSequence]) -> Steps[None]:
    """Rows that an encoder reads at a time: what it makes of them is there for all or none, so none joins."""
    sources = [np.asarray(row.encoder_ids, np.int64) for row in rows]
    lengths = np.array([len(source) for source in sources])
    padded = np.zeros((len(rows), lengths.max()), np.int64)
    for place, source in enumerate(sources):
        padded[place, : len(source)] = source
    cache = engine.start(len(rows), padded, lengths)
    logits, cache = engine.step(np.array([row.prompt for row in rows]), cache)
    for place, row in enumerate(rows):
        yield row, row.sample(logits[place, 0])
    running: list[GeneratedSequence | None] = [row if row.finish_reason is None else None for row in rows]
    while running:
        running, cache = yield from _step(engine, running, cache)


def _step(
    engine: Engine, running: list[GeneratedSequence | None], cache: Any
) -> Steps[tuple[list[GeneratedSequence | None], Any]]:
    """A token more for each row that runs; the places of the others leave the cache."""
    going = {place: row for place, row in enumerate(running) if row is not None}
    if not going:
        return [], cache
    if len(going) < len(running):
        cache = cache.select(np.array([*going]))
    rows = [*going.values()]
    logits, cache = engine.step(np.array([[row.tokens[-1]] for row in rows]), cache)
    for place, row in enumerate(rows):
        yield row, row.sample(logits[place, 0])
    return [row if row.finish_reason is None else None for row in rows], cache


def _read(
    engine: Engine, cache: Any, place: int, prompt: Sequence[int], chunk: int
) -> tuple[np.ndarray, Any]:
    """A prompt into its place of the cache, while the other rows wait: (logits of its last token, cache)."""
    lengths = cache.lengths.copy()
    lengths[place] = 0
    cache = cache.truncate(lengths)
    logits = np.zeros(0)
    for start in range(0, len(prompt), chunk):
        part = np.asarray(prompt[start : start + chunk], np.int64)
        tokens = np.zeros((len(lengths), len(part)), np.int64)
        tokens[place] = part
        here = np.where(np.arange(len(lengths)) == place, len(part), 0)
        said, cache = engine.step(tokens, cache, here)
        logits = said[place, 0]
    return logits, cache
