"""Rank texts by how well they answer a query."""

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
    """A text, its index in the given list, and its relevance as `score`, from 0 to 1."""

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
    """Return the texts, the most relevant first. With `top`, return only that many texts.

    Raises ConfigError unless the model is a classifier of pairs with one label.
    """
    head = model.config.head
    if not isinstance(head, Classify) or len(model.labels) != 1:
        labels = f" (this model has {len(model.labels)} labels)" if isinstance(head, Classify) else ""
        raise ConfigError(
            f"this model can {task_of(model.config)}, not rerank: use a classifier with one label{labels}"
        )
    listed = singles(texts)
    labels = classify(model, [(query, text) for text in listed], batch=batch, progress=progress)
    scores = relevances(head, labels)
    order = np.argsort(-scores, kind="stable")[:top]
    return [Ranked(int(i), float(scores[i]), listed[i]) for i in order]


def relevances(head: Classify, labels: Sequence[Sequence[Label]]) -> np.ndarray:
    """Return a score from 0 to 1 for each text: the probability of the only label, or the sigmoid of a
    regression's number.
    """
    scores = np.array([one[0].score for one in labels], np.float64)
    return np.exp(-np.logaddexp(0, -scores)) if head.kind == "regression" else scores
