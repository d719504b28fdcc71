"""Compute a step of many tokens as several runs of few tokens.

Some caches have no room for all tokens of a step. Other caches are faster with few tokens at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class StepArrays(NamedTuple):
    """The input and output arrays of one step.

    - `tokens` [B, T]: the new tokens, with padding.
    - `past` [B]: the number of earlier tokens in each row.
    - `lengths` [B]: how many tokens of each row are real and not padding.
    - `at` [B, P]: the positions for which logits are wanted.
    - `logits` [B, P, N]: memory for these logits.
    - `hidden` [B, T, D]: the vectors that a module for drafts reads; None for other models.
    - `hidden_out` [B, T, D]: memory for the tokens' vectors; None if the graph doesn't output them.
    """

    tokens: np.ndarray
    past: np.ndarray
    lengths: np.ndarray
    at: np.ndarray
    logits: np.ndarray
    hidden: np.ndarray | None = None
    hidden_out: np.ndarray | None = None


def in_chunks(run: Callable[[StepArrays], object], size: int, step: StepArrays) -> None:
    """Run a step with at most `size` tokens at a time, and fill the step's logits.

    `run` runs one part of the step. A position in the padding gets the logits of the last real token, or
    zeros if the row has no tokens.
    """
    tokens, past, lengths, at, logits, hidden, hidden_out = step
    at = np.minimum(at, np.maximum(lengths - 1, 0)[:, None])
    logits[:] = 0
    for first in range(0, int(lengths.max()), size):
        chunk = tokens[:, first : first + size]
        real = np.clip(lengths - first, 0, chunk.shape[1])
        here = (at >= first) & (at < first + size) & (real > 0)[:, None]
        # The graph gives at least one position, wanted or not.
        columns = np.flatnonzero(here.any(axis=0)) if here.any() else np.arange(1)
        chunk_at = np.clip(at[:, columns] - first, 0, chunk.shape[1] - 1)
        chunk_logits = np.empty((len(tokens), len(columns), logits.shape[2]), logits.dtype)
        here_in, here_out = (None if a is None else a[:, first : first + size] for a in (hidden, hidden_out))
        chunk_out = None if here_out is None else np.empty(here_out.shape, here_out.dtype)
        run(
            StepArrays(
                chunk, past + np.minimum(lengths, first), real, chunk_at, chunk_logits, here_in, chunk_out
            )
        )
        if here_out is not None:
            here_out[...] = chunk_out
        logits[:, columns] = np.where(here[:, columns, None], chunk_logits, logits[:, columns])
