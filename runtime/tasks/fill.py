"""What stands where a text is masked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...refimpl.config import MaskedLM
from ...refimpl.decoding.filters import top_indices
from ...refimpl.errors import CheckpointError, LimitError
from .encoder_batches import Progress, encoded, predicted, silent, singles, softmax

if TYPE_CHECKING:
    from .model import Model

BATCH = 8  # a head over the vocabulary makes far more of a row than others do


class Filling(NamedTuple):
    """A token that may stand there, as text, and its probability."""

    token: int
    text: str
    score: float


def fill(
    model: Model,
    texts: str | list[str],
    *,
    count: int = 5,
    batch: int = BATCH,
    progress: Progress = silent,
) -> list[list[list[Filling]]]:
    """The `count` likeliest tokens for each mask of each text, likeliest first.

    Masks of one text are filled each for itself, the others staying masks. The name of the mask token is
    the one name of a control token that is read in a text.
    """
    model.expect(MaskedLM)
    mask = model.generation.mask
    if mask is None:
        raise CheckpointError("the model doesn't say which token is the mask: tokenizer_config.json names it")
    if count < 1:
        raise LimitError(f"count must be at least 1, got {count}")
    name = model.text.token(mask)
    rows = encoded(model, singles(texts), meant=name)
    for i, row in enumerate(rows):
        if mask not in row.ids:
            raise LimitError(f"text {i + 1} must hold the mask, which this model writes {name}")
    found: list[list[list[Filling]]] = [[] for _ in rows]
    for i, logits in predicted(model, rows, batch, progress):
        for at in np.flatnonzero(np.array(rows[i].ids) == mask):
            scores = softmax(logits[at])
            best = top_indices(scores, min(count, len(scores)))
            # Special tokens decode to nothing: their own name says what they are.
            words = [model.text.decode([int(k)]) or model.text.token(int(k)) for k in best]
            filled = zip(best, words, strict=True)
            found[i].append([Filling(int(k), word, float(scores[k])) for k, word in filled])
    return found
