"""Texts by how well they answer a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...refimpl.config import Classify
from ...refimpl.errors import ConfigError
from ..progress import Progress, silent
from .base import TaskModel, task_of
from .classify import Label, classify
from .encoder_batches import BATCH, singles


@dataclass(frozen=True)
class Ranked:
    """A text, its place among those that were given, and its relevance, from 0 to 1."""

    index: int
    score: float
    text: str


def rerank(
    model: TaskModel,
    query: str,
    texts: Sequence[str],
    *,
    top: int | None = None,
    batch: int = BATCH,
    progress: Progress = silent,
) -> list[Ranked]:
    """The texts, or the `top` of them, the most relevant first; ConfigError unless the model is a classifier
    of pairs with one label."""
    head = model.config.head
    if not isinstance(head, Classify) or len(model.labels) != 1:
        labels = f", this one has {len(model.labels)}" if isinstance(head, Classify) else ""
        raise ConfigError(
            f"this model can {task_of(model.config)}, not rerank: name a classifier with one label{labels}"
        )
    listed = singles(texts)
    labels = classify(model, [(query, text) for text in listed], batch=batch, progress=progress)
    scores = relevances(head, labels)
    order = np.argsort(-scores, kind="stable")[:top]
    return [Ranked(int(i), float(scores[i]), listed[i]) for i in order]


def relevances(head: Classify, labels: Sequence[Sequence[Label]]) -> np.ndarray:
    """The probability of each text's one label; of a regression's number, its sigmoid."""
    scores = np.array([one[0].score for one in labels], np.float64)
    return np.exp(-np.logaddexp(0, -scores)) if head.kind == "regression" else scores
