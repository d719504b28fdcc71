"""Classify texts: one or more labels for each whole text."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...refimpl.config import Classify
from ..progress import Progress, silent
from .base import TaskModel
from .encoder_batches import BATCH, Texts, encoded, predicted, softmax


class Label(NamedTuple):
    """A label and its score: a probability, or the number that a regression computes."""

    label: str
    score: float


def classify(
    model: TaskModel, texts: Texts, *, batch: int = BATCH, progress: Progress = silent
) -> list[list[Label]]:
    """Return all labels of each text or pair of texts, the likeliest first.

    If exactly one label applies to a text, the scores are a softmax and sum to 1. If several labels may
    apply, each score is a sigmoid of its own logit. A regression's numbers are returned unchanged, in the
    head's order.
    """
    head = model.expect(Classify)
    rows = encoded(model, texts)
    labels: list[list[Label]] = [[] for _ in rows]
    for i, logits in predicted(model, rows, batch, progress):
        match head.kind:
            case "single":
                scores = softmax(logits)
            case "multi":
                scores = np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
            case "regression":
                scores = logits
        order = range(len(scores)) if head.kind == "regression" else np.argsort(-scores, kind="stable")
        labels[i] = [Label(model.labels[k], float(scores[k])) for k in order]
    return labels
