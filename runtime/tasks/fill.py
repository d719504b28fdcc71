"""Predict tokens for the masks of a text."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...refimpl.config import MaskedLM
from ...refimpl.decoding.filters import top_indices
from ...refimpl.errors import LimitError
from ..progress import Progress, silent
from .base import TaskModel, expect_mask
from .encoder_batches import encoded, predicted, singles, softmax

BATCH = 8  # a head over the vocabulary makes far more numbers of a row than others do


class Filling(NamedTuple):
    """A token that may replace a mask: its id `token`, its `text`, and its probability `score`."""

    token: int
    text: str
    score: float


def fill(
    model: TaskModel,
    texts: str | list[str],
    *,
    count: int = 5,
    batch: int = BATCH,
    progress: Progress = silent,
) -> list[list[list[Filling]]]:
    """Return the `count` likeliest tokens for each mask of each text, the likeliest first.

    Each mask is predicted independently, while the text's other masks stay masks. In the texts, only the name
    of the mask token becomes a control token. The names of all other control tokens are read as plain
    text.
    """
    model.expect(MaskedLM)
    mask = expect_mask(model.generation)
    if count < 1:
        raise LimitError(f"count must be at least 1, got {count}")
    name = model.text.id_to_token(mask)
    rows = encoded(model, singles(texts), control_token=name)
    for i, row in enumerate(rows):
        if mask not in row.ids:
            raise LimitError(f"text {i + 1} must contain the mask token, {name}")
    fillings: list[list[list[Filling]]] = [[] for _ in rows]
    for i, logits in predicted(model, rows, batch, progress):
        for position in np.flatnonzero(np.array(rows[i].ids) == mask):
            scores = softmax(logits[position])
            best = top_indices(scores, min(count, len(scores)))
            fillings[i].append([Filling(int(k), _written(model, int(k)), float(scores[k])) for k in best])
    return fillings


def _written(model: TaskModel, token: int) -> str:
    """Return a token as text. A special token, which decodes to nothing, is returned as its name."""
    return model.text.decode([token]) or model.text.id_to_token(token)
