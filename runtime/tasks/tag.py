"""Token classification: find a label for each token, or entities made of neighbouring tokens with the same
label.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar, get_args

import numpy as np

from ...refimpl.checkpoint.labels import Aggregation
from ...refimpl.config import Tag
from ...refimpl.errors import LimitError
from ..progress import Progress, silent
from .base import TaskModel
from .encoder_batches import BATCH, encoded, predicted, singles, softmax

AGGREGATIONS = get_args(Aggregation)
OUTSIDE = "O"

P = TypeVar("P")


class Entity(NamedTuple):
    """A labelled part of a text: the characters `start` … `end`, with a label and its probability as
    `score`.
    """

    label: str
    score: float
    start: int
    end: int
    text: str


class _Part(NamedTuple):
    """A token or a word: the probability of each label, and the characters `start` … `end` of the text."""

    scores: np.ndarray
    start: int
    end: int


def tag(
    model: TaskModel,
    texts: str | list[str],
    *,
    aggregation: Aggregation = "simple",
    outside: Sequence[str] = (OUTSIDE,),
    batch: int = BATCH,
    progress: Progress = silent,
) -> list[list[Entity]]:
    """Return the entities of each text. Entities with a label in `outside` are left out.

    `aggregation` says how tokens become entities, as in transformers' pipeline:

    - none: every token is an entity.
    - simple: neighbouring tokens of one label are joined. A label that begins with B- begins a new entity. A
      label with I- or without a prefix continues an entity of the same label.
    - first, average, max: all tokens of a word get the same label, and are then joined as with simple. With
      first, the word gets the label of its first token. With average, the word gets the label with the
      largest mean probability over its tokens. With max, the word gets the label of its token with the
      highest probability.

    An entity's score is the mean score of its parts. If the tokenizer marks continuing tokens ("##"), these
    marks show where words begin; otherwise the spaces of the text do.
    """
    model.expect(Tag)
    if aggregation not in AGGREGATIONS:
        raise LimitError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, got {aggregation!r:.40}")
    some = singles(texts)
    rows = encoded(model, some)
    entities: list[list[Entity]] = [[] for _ in rows]
    for i, logits in predicted(model, rows, batch, progress):
        text, row, scores = some[i], rows[i], softmax(logits)
        in_text = [k for k, index in enumerate(row.sequence_ids) if index is not None]
        parts = [_Part(scores[k], *row.offsets[k]) for k in in_text]
        if aggregation not in ("none", "simple"):
            continues = [
                k > in_text[0] and _continues_word(model, text, row.ids[k], row.offsets[k][0])
                for k in in_text
            ]
            parts = [_word(tokens, aggregation) for tokens in _groups(parts, continues)]
        labels = [model.labels[int(part.scores.argmax())] for part in parts]
        joined = [aggregation != "none" and _continues_entity(*two) for two in pairwise(labels)]
        labelled = list(zip(labels, parts, strict=True))
        for group in _groups(labelled, [False, *joined][: len(parts)]):
            (label, first), (_, last) = group[0], group[-1]
            name = label if aggregation == "none" else label.split("-", 1)[-1]
            if name not in outside:
                score = float(np.mean([part.scores.max() for _, part in group]))
                entities[i].append(Entity(name, score, first.start, last.end, text[first.start : last.end]))
    return entities


def _continues_word(model: TaskModel, text: str, token: int, start: int) -> bool:
    """Return whether a token belongs to the same word as the token before it."""
    tokenizer = model.text
    if token in tokenizer.unknown_ids:
        return False
    if tokenizer.continuing_subword_prefix:
        return tokenizer.id_to_token(token).startswith(tokenizer.continuing_subword_prefix)
    return start > 0 and " " not in text[start - 1 : start + 1]


def _continues_entity(before: str, label: str) -> bool:
    """Return whether a token with this label belongs to the same entity as the token before it, with label
    `before`.
    """
    return not label.startswith("B-") and _kind(before) == _kind(label)


def _kind(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _groups(parts: Sequence[P], continues: Sequence[bool]) -> list[list[P]]:
    """Group the parts into lists. A part that continues the part before it joins the same list."""
    groups: list[list[P]] = []
    for part, joined in zip(parts, continues, strict=True):
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
