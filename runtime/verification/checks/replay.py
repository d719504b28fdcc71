"""Run an engine on the golden tokens: all at once, in chunks, with more padding, or with only some of the
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ....refimpl.config import LM
from ....refimpl.engine.protocol import Cache, Engine
from ..golden import Golden

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

ALL_ROWS = slice(None)


def run_at_once(engine: Engine, golden: Golden, rows: slice = ALL_ROWS) -> Float[Array, "M N"]:
    """Return the model's output at the real positions of the golden tokens, computed in one run."""
    if not isinstance(engine.config.head, LM):
        return predict(engine, golden, rows)
    return run_in_chunks(engine, golden, [golden.tokens.shape[1]], rows)


def predict(engine: Engine, golden: Golden, rows: slice = ALL_ROWS, padding: int = 0) -> Float[Array, "M N"]:
    """Return an encoder's output at the real positions, with `padding` more tokens at the end of each row.

    A sound gets no padding.
    """
    if golden.encoder_ids is not None:
        outputs = engine.predict(golden.encoder_ids[rows])
        return outputs.reshape(-1, outputs.shape[-1])
    tokens, lengths, token_types = golden.tokens[rows], golden.lengths[rows], golden.token_types
    padding = min(padding, engine.config.context - tokens.shape[1])
    tokens = _widened(tokens, padding)
    if token_types is not None:
        token_types = _widened(token_types[rows], padding)
    outputs = engine.predict(tokens, lengths, token_types)
    if outputs.ndim == 2:  # one output per text
        return outputs
    return outputs[np.arange(outputs.shape[1])[None] < lengths[:, None]]


def _widened(tokens: Array, padding: int) -> Array:
    """Return the rows with padding at the end: each row's own first tokens again."""
    return np.concatenate([tokens, tokens[:, :padding]], axis=1)


def start(engine: Engine, golden: Golden, rows: slice) -> Cache:
    """Return a cache for these golden rows. If the model has an encoder, the encoder first reads its golden
    input.
    """
    count = len(golden.tokens[rows])
    if golden.encoder_ids is None or golden.encoder_lengths is None:
        return engine.start(count)
    return engine.start(count, golden.encoder_ids[rows], golden.encoder_lengths[rows])


def run_in_chunks(
    engine: Engine, golden: Golden, chunks: Sequence[int], rows: slice = ALL_ROWS
) -> Float[Array, "M N"]:
    """Return logits at the real positions of the golden tokens, computed in chunks. `chunks` are the lengths
    of the chunks.
    """
    tokens, lengths = golden.tokens[rows], golden.lengths[rows]
    cache = start(engine, golden, rows)
    begin = 0
    parts = []
    for size in chunks:
        real = np.clip(lengths - begin, 0, size)
        at = np.tile(np.arange(size), (len(tokens), 1))
        logits, cache = engine.step(tokens[:, begin : begin + size], cache, real, at)
        parts.append(logits)
        begin += size
    logits = np.concatenate(parts, axis=1)
    return logits[np.arange(begin)[None] < lengths[:, None]]
