"""Where in a text the answer to a question stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...refimpl.config import QuestionAnswering
from ...refimpl.errors import LimitError
from ..text.control_tokens import Encoding
from .encoder_batches import BATCH, Progress, predicted, silent, softmax

if TYPE_CHECKING:
    from .model import Model

WINDOW, STRIDE = 384, 128  # what the models were trained with


class Span(NamedTuple):
    """An answer, its probability, and its characters `start` … `end` of the context; without text, none."""

    text: str
    score: float
    start: int
    end: int


class _Window(NamedTuple):
    """A part of a context with the whole question, and which of the contexts it is of."""

    place: int
    row: Encoding


def answer(
    model: Model,
    asked: tuple[str, str] | list[tuple[str, str]],
    *,
    count: int = 1,
    longest: int = 15,
    may_be_none: bool = False,
    window: int | None = None,
    stride: int | None = None,
    batch: int = BATCH,
    progress: Progress = silent,
) -> list[list[Span]]:
    """The `count` best answers to each (question, context), of at most `longest` tokens, best first.

    A span scores P(it starts there) · P(it ends there); the probabilities are taken over the tokens of the
    context and the first token of all, which stands for "no answer" and is one only where `may_be_none`.
    A context that has no room is read in windows of `window` tokens, question and all, of which neighbours
    share `stride` tokens of the context: each window has its own probabilities, a span counts with its
    best, and "no answer" with its worst, since any window may hold one. Answers are widened to whole words.
    These are the rules of transformers' pipeline of old (its version 5 has none), but that answers of equal
    text in different places stay apart.
    """
    model.expect(QuestionAnswering)
    some = [asked] if isinstance(asked, tuple) else asked
    if count < 1 or longest < 1:
        raise LimitError(f"count and the longest answer must be at least 1, got {count} and {longest}")
    parts: list[_Window] = []
    for i, (question, context) in enumerate(some):
        whole = model.text.read(question, context)
        parts += [_Window(i, row) for row in windows(whole, model.config.context, window, stride, i + 1)]
    found: list[dict[tuple[int, int], float]] = [{} for _ in some]
    none = [np.inf] * len(some)
    for i, logits in predicted(model, [part.row for part in parts], batch, progress):
        place, row = parts[i]
        spans, empty = best_spans(logits, row, count, longest)
        none[place] = min(none[place], empty)
        for start, end, score in spans:
            where = widened(row, start, end)
            found[place][where] = max(found[place].get(where, 0.0), score)
    made = []
    for (_, context), spans, empty in zip(some, found, none, strict=True):
        told = [Span(context[start:end], score, start, end) for (start, end), score in spans.items()]
        told += [Span("", float(empty), 0, 0)] if may_be_none else []
        made.append(sorted(told, key=lambda one: -one.score)[:count])
    return made


def windows(
    whole: Encoding, context: int, window: int | None, stride: int | None, number: int
) -> list[Encoding]:
    """A question with a context as rows that the model has room for."""
    window = min(context, WINDOW) if window is None else window
    stride = min(window // 2, STRIDE) if stride is None else stride
    own = [i for i, text in enumerate(whole.texts) if text == 1]
    room = window - (len(whole.ids) - len(own))
    if not own:
        raise LimitError(f"context {number} has no token: there is nothing to read")
    if window > context or stride < 0 or (room <= stride and room < len(own)):
        raise LimitError(
            f"question {number} takes {window - room} tokens and leaves {room} of a window of {window}: that "
            f"must be more than the stride {stride}, and the window at most the context, {context}"
        )
    rows = []
    for start in range(0, len(own), max(room - stride, 1)):
        part = own[start : start + room]
        rows.append(whole.take([*range(own[0]), *part, *range(own[-1] + 1, len(whole.ids))]))
        if part[-1] == own[-1]:
            break
    return rows


def best_spans(
    logits: np.ndarray, row: Encoding, count: int, longest: int
) -> tuple[list[tuple[int, int, float]], float]:
    """The `count` likeliest (first token, last token, score) from logits [T, 2], and the score of none."""
    own = np.array([text == 1 for text in row.texts])
    seen = own.copy()
    seen[0] |= row.texts[0] is None
    start, end = (_over(logits[:, side], seen) for side in (0, 1))
    at = np.flatnonzero(own)
    longest = min(longest, len(at))
    # A row for each first token, a column for each length.
    last = np.arange(len(at))[:, None] + np.arange(longest)
    scores = np.where(last < len(at), start[at][:, None] * end[at][np.minimum(last, len(at) - 1)], -1.0)
    order = np.argsort(-scores, axis=None, kind="stable")[: min(count, int((scores >= 0).sum()))]
    places = (divmod(int(k), longest) for k in order)
    return [(int(at[i]), int(at[i + n]), float(scores[i, n])) for i, n in places], float(start[0] * end[0])


def _over(logits: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Probabilities over the tokens that are seen; 0 for the others."""
    made = np.zeros(len(logits))
    made[seen] = softmax(logits[seen])
    return made


def widened(row: Encoding, first: int, last: int) -> tuple[int, int]:
    """The characters of the whole words that the tokens `first` … `last` stand in."""

    def same(i: int, j: int) -> bool:
        inside = 0 <= j < len(row.ids) and row.texts[j] == row.texts[i]
        return inside and row.words[i] is not None and row.words[j] == row.words[i]

    while same(first, first - 1):
        first -= 1
    while same(last, last + 1):
        last += 1
    return row.spans[first][0], row.spans[last][1]
