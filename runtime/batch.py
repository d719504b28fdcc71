"""Many texts at a time: a queue of rows that join the running batch as others finish.

A step reads all weights whether it makes one token or eight, so rows that share it are nearly free. A row
owns its sampler, its random numbers and its place in the cache, and is read alone when it joins: it
becomes what it would be by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..refimpl.engine import Engine
from ..refimpl.errors import LimitError
from ..refimpl.generate import CHUNK, Row, room


def run(
    engine: Engine, rows: Sequence[Row], size: int, chunk: int = CHUNK
) -> Iterator[tuple[Row, int | None]]:
    """Generate all rows, at most `size` at a time: (row, its next token) as they come, None for a stop token.

    Who reads the tokens may end a row by setting its `finished` (a stop string). Rows that don't fit the
    context are refused before any is begun.
    """
    if size < 1:
        raise LimitError(f"a batch must have at least one row, got {size}")
    for row in rows:
        row.max_new_tokens = room(engine.config.context, len(row.prompt), row.max_new_tokens)
    waiting = deque(rows)
    running: list[Row | None] = [None] * min(size, len(rows))
    cache: Any = engine.start(len(running)) if running else None
    while running:
        for place, row in enumerate(running):
            while waiting and row is None:
                row = waiting.popleft()
                logits, cache = _read(engine, cache, place, row.prompt, chunk)
                yield row, row.accept(logits)
                row = None if row.finished is not None else row
            running[place] = row
        going = {place: row for place, row in enumerate(running) if row is not None}
        if not going:
            return
        if len(going) < len(running):
            cache = cache.select(np.array([*going]))
        logits, cache = engine.step(np.array([[row.tokens[-1]] for row in going.values()]), cache)
        running = [*going.values()]
        for place, row in enumerate(going.values()):
            yield row, row.accept(logits[place, 0])
            if row.finished is not None:
                running[place] = None


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
