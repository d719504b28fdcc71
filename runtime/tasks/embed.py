"""A vector a text, of which near ones say the like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...refimpl.config import Pool
from .encoder_batches import BATCH, Progress, Texts, encoded, predicted, silent

if TYPE_CHECKING:
    from .model import Model


def embed(model: Model, texts: Texts, *, batch: int = BATCH, progress: Progress = silent) -> np.ndarray:
    """Vectors [texts, D], float32, pooled and normalized as the model's head says."""
    model.expect(Pool)
    rows = encoded(model, texts)
    made: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
    for i, vector in predicted(model, rows, batch, progress):
        made[i] = vector.astype(np.float32)
    return np.stack(made) if made else np.zeros((0, 0), np.float32)


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines [M, N] of the angles between vectors [M, D] and [N, D]; 0 where one has no length."""
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    return np.divide(a @ b.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)
