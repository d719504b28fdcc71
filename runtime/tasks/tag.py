"""What the words of a text are: a label for each token, or entities that tokens of one label make up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, get_args

import numpy as np

from ...refimpl.checkpoint.labels import Aggregation
from ...refimpl.config import Tag
from ...refimpl.errors import LimitError
from .encoder_batches import BATCH, Progress, encoded, predicted, silent, singles, softmax

if TYPE_CHECKING:
    from .model import Model

AGGREGATIONS = get_args(Aggregation)
OUTSIDE = "O"


class Entity(NamedTuple):
    """A label, its probability, and the characters `start` … `end` of the text that it is given to."""

    label: str
    score: float
    start: int
    end: int
    text: str


class _Part(NamedTuple):
    """A token or a word: probabilities of the labels, and its characters."""

    scores: np.ndarray
    start: int
    end: int


def tag(
    model: Model,
    texts: str | list[str],
    *,
    aggregation: Aggregation = "simple",
    outside: Sequence[str] = (OUTSIDE,),
    batch: int = BATCH,
    progress: Progress = silent,
) -> list[list[Entity]]:
    """The entities of each text, without those that are labelled as `outside` of any.

    `none` gives every token. `simple` joins neighbours of one label, where B- begins a new entity and I-
    or no prefix goes on. `first`, `average` and `max` settle on one label for all tokens of a word before:
    that of its first token, of the mean of their probabilities, or of its surest token. They are those of
    transformers' pipeline, which also shows how an entity scores: the mean of its parts. A word is known by
    the tokenizer's prefix of continuing pieces ("##"), else by the spaces of the text.
    """
    model.expect(Tag)
    if aggregation not in AGGREGATIONS:
        raise LimitError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, got {aggregation!r:.40}")
    some = singles(texts)
    rows = encoded(model, some)
    found: list[list[Entity]] = [[] for _ in rows]
    for i, logits in predicted(model, rows, batch, progress):
        text, row, scores = some[i], rows[i], softmax(logits)
        own = [k for k, where in enumerate(row.texts) if where is not None]
        parts = [_Part(scores[k], *row.spans[k]) for k in own]
        if aggregation not in ("none", "simple"):
            goes_on = [k > own[0] and _goes_on(model, text, row.ids[k], row.spans[k][0]) for k in own]
            parts = [_word(group, aggregation) for group in _groups(parts, goes_on)]
        best = [model.labels[int(p.scores.argmax())] for p in parts]
        joined = [False, *(aggregation != "none" and _same(*labels) for labels in pairwise(best))]
        groups = _groups(list(zip(best, parts, strict=True)), joined[: len(parts)])
        for group in groups:
            (label, first), (_, last) = group[0], group[-1]
            name = label if aggregation == "none" else label.split("-", 1)[-1]
            if name not in outside:
                score = float(np.mean([part.scores.max() for _, part in group]))
                found[i].append(Entity(name, score, first.start, last.end, text[first.start : last.end]))
    return found


def _goes_on(model: Model, text: str, number: int, start: int) -> bool:
    """Whether a token goes on with the word of the token before it."""
    tokenizer = model.text
    if number in tokenizer.unknown:
        return False
    if tokenizer.continuing:
        return tokenizer.token(number).startswith(tokenizer.continuing)
    return start > 0 and " " not in text[start - 1 : start + 1]


def _same(before: str, label: str) -> bool:
    """Whether a label goes on with the entity of the one before it."""
    return not label.startswith("B-") and _kind(before) == _kind(label)


def _kind(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _groups(parts: list, goes_on: list[bool]) -> list[list]:
    """Parts joined where one goes on with the one before it."""
    groups: list[list] = []
    for part, joined in zip(parts, goes_on, strict=True):
        if joined:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _word(parts: Sequence[_Part], aggregation: Aggregation) -> _Part:
    match aggregation:
        case "first":
            scores = parts[0].scores
        case "max":
            scores = max((part.scores for part in parts), key=lambda s: float(s.max()))
        case _:
            scores = np.mean([part.scores for part in parts], axis=0)
    return _Part(scores, parts[0].start, parts[-1].end)
