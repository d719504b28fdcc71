"""Extractive question answering: find the answer to a question in a text."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...refimpl.config import QuestionAnswering
from ...refimpl.errors import LimitError
from ..progress import Progress, silent
from ..text.control_tokens import Encoding
from .base import TaskModel
from .encoder_batches import BATCH, predicted, softmax

WINDOW, STRIDE = 384, 128  # what the models were trained with

Question = tuple[str, str]  # a question and its context


class Span(NamedTuple):
    """An answer, its probability as `score`, and its position in the context: the characters `start` … `end`.

    An empty text means that the context has no answer.
    """

    text: str
    score: float
    start: int
    end: int


class _Window(NamedTuple):
    """A row that the model reads: a whole question with a part of its context.

    `question` is the index of the question.
    """

    question: int
    row: Encoding


def answer(
    model: TaskModel,
    questions: Question | list[Question],
    *,
    count: int = 1,
    longest: int = 15,
    may_be_none: bool = False,
    window: int | None = None,
    stride: int | None = None,
    batch: int = BATCH,
    progress: Progress = silent,
) -> list[list[Span]]:
    """Return the `count` best answers to each (question, context), the best first.

    An answer has at most `longest` tokens. The score of a span is P(its first token is the start) · P(its
    last token is the end). The probabilities are over the tokens of the context and the first token of the
    row, which means "no answer". The results include "no answer" only with `may_be_none`.

    A context that doesn't fit is read in windows of `window` tokens, question included. Neighbouring windows
    share `stride` tokens of the context. Each window has probabilities of its own. A span that is in several
    windows gets the best of its scores. "No answer" gets the lowest of its scores, since any window may
    contain the answer. Answers are widened to whole words.

    These are the rules of the pipeline that transformers had until version 5, with one exception: answers
    with the same text at different positions aren't merged.
    """
    model.expect(QuestionAnswering)
    pairs = [questions] if isinstance(questions, tuple) else questions
    if count < 1 or longest < 1:
        raise LimitError(
            f"count (of answers) and longest (the tokens of an answer) must be at least 1, got {count} and "
            f"{longest}"
        )
    parts: list[_Window] = []
    for i, (question, context) in enumerate(pairs):
        encoding = model.text.encode_with_offsets(question, context)
        parts += [_Window(i, row) for row in windows(encoding, model.config.context, window, stride, i + 1)]
    scores: list[dict[tuple[int, int], float]] = [{} for _ in pairs]
    no_answer = [np.inf] * len(pairs)
    for i, logits in predicted(model, [part.row for part in parts], batch, progress):
        question, row = parts[i]
        spans, empty = best_spans(logits, row, count, longest)
        no_answer[question] = min(no_answer[question], empty)
        for first, last, score in spans:
            characters = widened(row, first, last)
            scores[question][characters] = max(scores[question].get(characters, 0.0), score)
    answers = []
    for (_, context), of_question, empty in zip(pairs, scores, no_answer, strict=True):
        spans = [Span(context[start:end], score, start, end) for (start, end), score in of_question.items()]
        if may_be_none:
            spans.append(Span("", float(empty), 0, 0))
        answers.append(sorted(spans, key=lambda span: -span.score)[:count])
    return answers


def windows(
    encoding: Encoding, context: int, window: int | None, stride: int | None, number: int
) -> list[Encoding]:
    """Split the tokens of question `number` and its text into rows of at most `window` tokens.

    Each row contains the whole question and a part of the text. Neighbouring rows share `stride` tokens of
    the text. `context` is the largest number of tokens that the model can read. Raises LimitError if the text
    has no tokens, if `window` is above `context`, or if a row that can't contain the whole text has room for
    at most `stride` tokens of it.

        whole     [CLS] question [SEP] c0 c1 c2 c3 c4 c5 c6 [SEP]
        row 1     [CLS] question [SEP] c0 c1 c2 c3          [SEP]
        row 2     [CLS] question [SEP]       c2 c3 c4 c5    [SEP]      stride 2
        row 3     [CLS] question [SEP]             c4 c5 c6 [SEP]
    """
    if window is None:
        window = min(context, WINDOW)
    if stride is None:
        stride = min(window // 2, STRIDE)
    of_context = [i for i, text in enumerate(encoding.sequence_ids) if text == 1]
    room = window - (len(encoding.ids) - len(of_context))
    if not of_context:
        raise LimitError(f"the text of question {number} has no tokens: give a text that isn't empty")
    if window > context or stride < 0 or (room <= stride and room < len(of_context)):
        raise LimitError(
            f"question {number} has {window - room} tokens, so a window of {window} tokens has only "
            f"{max(room, 0)} tokens for the text, but the text needs more than the stride of {stride} "
            "tokens: shorten the question, or change the stride or the window (the model's context allows at "
            f"most {context} tokens)"
        )
    before, after = range(of_context[0]), range(of_context[-1] + 1, len(encoding.ids))
    rows = []
    for start in range(0, len(of_context), max(room - stride, 1)):
        part = of_context[start : start + room]
        rows.append(encoding.select([*before, *part, *after]))
        if part[-1] == of_context[-1]:
            break
    return rows


def best_spans(
    logits: np.ndarray, row: Encoding, count: int, longest: int
) -> tuple[list[tuple[int, int, float]], float]:
    """Return the `count` likeliest spans (first token, last token, score) from logits [T, 2], and the score
    of "no answer"."""
    in_context = np.array([text == 1 for text in row.sequence_ids])
    candidates = in_context.copy()
    candidates[0] |= row.sequence_ids[0] is None
    start, end = (_probabilities(logits[:, side], candidates) for side in (0, 1))
    positions = np.flatnonzero(in_context)
    longest = min(longest, len(positions))
    # A row for each first token, a column for each length.
    last = np.arange(len(positions))[:, None] + np.arange(longest)
    inside = last < len(positions)
    ends = end[positions][np.minimum(last, len(positions) - 1)]
    scores = np.where(inside, start[positions][:, None] * ends, -1.0)
    order = np.argsort(-scores, axis=None, kind="stable")[: min(count, int(inside.sum()))]
    spans = []
    for k in order:
        i, more = divmod(int(k), longest)
        spans.append((int(positions[i]), int(positions[i + more]), float(scores[i, more])))
    return spans, float(start[0] * end[0])


def _probabilities(logits: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return the softmax over the candidate tokens. The probability of all other tokens is 0."""
    probabilities = np.zeros(len(logits))
    probabilities[candidates] = softmax(logits[candidates])
    return probabilities


def widened(row: Encoding, first: int, last: int) -> tuple[int, int]:
    """Return the characters (start, end) of the whole words that contain the tokens `first` … `last`."""

    def same_word(i: int, j: int) -> bool:
        in_text = 0 <= j < len(row.ids) and row.sequence_ids[j] == row.sequence_ids[i]
        return in_text and row.word_ids[i] is not None and row.word_ids[j] == row.word_ids[i]

    while same_word(first, first - 1):
        first -= 1
    while same_word(last, last + 1):
        last += 1
    return row.offsets[first][0], row.offsets[last][1]
