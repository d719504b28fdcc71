"""A step of many tokens as several runs of few, for caches without a place for all, or read faster so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Run = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], object]


def in_pieces(
    run: Run,
    size: int,
    tokens: np.ndarray,
    past: np.ndarray,
    lengths: np.ndarray,
    at: np.ndarray,
    logits: np.ndarray,
) -> None:
    """`run(tokens, past, lengths, at, logits)` over at most `size` tokens at a time; fills `logits`.

    Of positions in the padding the last real token's logits are given, of a row without tokens zeros.
    """
    at = np.minimum(at, np.maximum(lengths - 1, 0)[:, None])
    logits[:] = 0
    for first in range(0, int(lengths.max()), size):
        part = tokens[:, first : first + size]
        real = np.clip(lengths - first, 0, part.shape[1])
        here = (at >= first) & (at < first + size) & (real > 0)[:, None]
        # The graph gives a position at least, wanted or not.
        wanted = np.flatnonzero(here.any(axis=0)) if here.any() else np.arange(1)
        own = np.clip(at[:, wanted] - first, 0, part.shape[1] - 1)
        said = np.empty((len(tokens), len(wanted), logits.shape[2]), logits.dtype)
        run(part, past + np.minimum(lengths, first), real, own, said)
        logits[:, wanted] = np.where(here[:, wanted, None], said, logits[:, wanted])
