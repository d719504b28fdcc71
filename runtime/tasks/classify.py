"""What a text is: labels of the whole, by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...refimpl.config import Classify
from .encoder_batches import BATCH, Progress, Texts, encoded, predicted, silent, softmax

if TYPE_CHECKING:
    from .model import Model


class Label(NamedTuple):
    """A label and its probability; of a regression its number."""

    label: str
    score: float


def classify(
    model: Model, texts: Texts, *, batch: int = BATCH, progress: Progress = silent
) -> list[list[Label]]:
    """All labels of each text or pair of texts, the likeliest first.

    Where one label holds, the scores are a softmax and add up to 1; where several may, each is a sigmoid
    of its own. A regression's numbers stand as they are, in the head's order.
    """
    head = model.expect(Classify)
    rows = encoded(model, texts)
    found: list[list[Label]] = [[] for _ in rows]
    for i, logits in predicted(model, rows, batch, progress):
        match head.kind:
            case "single":
                scores = softmax(logits)
            case "multi":
                scores = np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
            case "regression":
                scores = logits
        order = range(len(scores)) if head.kind == "regression" else np.argsort(-scores, kind="stable")
        found[i] = [Label(model.labels[k], float(scores[k])) for k in order]
    return found
