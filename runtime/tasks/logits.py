"""Compute the logits at every position of some texts, as if masked tokens didn't exist."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ...refimpl.decoding.loop import CHUNK
from ...refimpl.errors import LimitError
from .base import TaskModel


def logits(model: TaskModel, ids: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
    """Return logits [B, T, N] of ids [B, T], or [T, N] of [T]. N is the size of the vocabulary.

    Masked tokens, where `mask` is 0, are treated as absent: on the left, on the right or in between. The
    logits at their positions are 0.
    """
    one_or_many = np.asarray(ids, np.int64)
    tokens = np.atleast_2d(one_or_many)
    real = np.ones(tokens.shape, bool) if mask is None else np.atleast_2d(np.asarray(mask)) != 0
    if tokens.ndim != 2 or real.shape != tokens.shape or not tokens.size:
        raise LimitError(
            "ids must have the shape [T] or [B, T] with T of at least 1, and the mask the same shape, got "
            f"{tokens.shape} and {real.shape}"
        )
    # Real tokens first, in their order: a stable sort of "isn't real".
    order = np.argsort(~real, axis=1, kind="stable")
    packed = np.take_along_axis(tokens, order, 1)
    lengths = real.sum(1)
    result = np.zeros((*tokens.shape, model.config.embedding.vocabulary), np.float32)
    cache = model.engine.start(len(tokens))
    for begin in range(0, int(lengths.max(initial=0)), CHUNK):
        chunk = packed[:, begin : begin + CHUNK]
        t = chunk.shape[1]
        at = np.broadcast_to(np.arange(t), chunk.shape)
        in_chunk = np.clip(lengths - begin, 0, t)
        output, cache = model.engine.step(chunk, cache, in_chunk, at)
        for row, length in enumerate(in_chunk):
            result[row, order[row, begin : begin + length]] = output[row, :length]
    return result.reshape(*one_or_many.shape, -1)
