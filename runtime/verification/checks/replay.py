"""The golden tokens handed to an engine, in each way that one can be handed them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ....refimpl.config import LM
from ....refimpl.engine.protocol import Engine
from ..golden import Golden

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


def whole(engine: Engine, golden: Golden, rows: slice = slice(None)) -> Float[Array, "M N"]:
    """What the model says of the golden tokens in one go."""
    if not isinstance(engine.config.head, LM):
        return predict(engine, golden, rows)
    return run(engine, golden, [golden.tokens.shape[1]], rows)


def predict(
    engine: Engine, golden: Golden, rows: slice = slice(None), padding: int = 0
) -> Float[Array, "M N"]:
    """What an encoder says at the real positions, some tokens more behind each row."""
    tokens, lengths, context = golden.tokens[rows], golden.lengths[rows], engine.config.context
    padding = min(padding, context - tokens.shape[1])
    wider = lambda a: np.concatenate([a, a[:, :padding]], axis=1)  # noqa: E731
    types = None if golden.types is None else wider(golden.types[rows])
    said = engine.predict(wider(tokens), lengths, types)
    if said.ndim == 2:
        return said
    return said[np.arange(said.shape[1])[None] < lengths[:, None]]


def start(engine: Engine, golden: Golden, rows: slice) -> Any:
    """A cache for the rows, their encoder's text read where there is one."""
    count = len(golden.tokens[rows])
    if golden.source is None or golden.source_lengths is None:
        return engine.start(count)
    return engine.start(count, golden.source[rows], golden.source_lengths[rows])


def run(engine: Engine, golden: Golden, pieces: list[int], rows: slice = slice(None)) -> Float[Array, "M N"]:
    """Logits at the real positions of the golden tokens, handed over in pieces of the given lengths."""
    tokens, lengths = golden.tokens[rows], golden.lengths[rows]
    cache, begin, made = start(engine, golden, rows), 0, []
    for piece in pieces:
        part = tokens[:, begin : begin + piece]
        real = np.clip(lengths - begin, 0, piece)
        at = np.tile(np.arange(piece), (len(tokens), 1))
        logits, cache = engine.step(part, cache, real, at)
        made.append(logits)
        begin += piece
    logits = np.concatenate(made, axis=1)
    return logits[np.arange(begin)[None] < lengths[:, None]]
