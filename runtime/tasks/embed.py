"""Embed texts: compute one vector for each text. Similar texts get nearby vectors."""

from __future__ import annotations

import numpy as np

from ...refimpl.config import Pool
from ..progress import Progress, silent
from .base import TaskModel
from .encoder_batches import BATCH, Texts, encoded, predicted


def embed(model: TaskModel, texts: Texts, *, batch: int = BATCH, progress: Progress = silent) -> np.ndarray:
    """Return vectors [texts, D] in float32, pooled and normalized as the model's head states."""
    model.expect(Pool)
    rows = encoded(model, texts)
    vectors: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
    for i, vector in predicted(model, rows, batch, progress):
        vectors[i] = vector.astype(np.float32)
    return np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine similarities [M, N] of vectors [M, D] and [N, D]. The similarity to a vector of
    length 0 is 0.
    """
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    return np.divide(a @ b.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)
