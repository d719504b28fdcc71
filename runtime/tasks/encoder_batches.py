"""Run many texts through an encoder, sorted by length into batches, so that little padding is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from ...refimpl.decoding.sampling import check_logits
from ...refimpl.errors import LimitError
from ..progress import Progress, silent
from ..text.control_tokens import Encoding
from .base import TaskModel

BATCH = 32

Pair = tuple[str, str]
Texts = str | Pair | list[str] | list[Pair] | list[Encoding]


def listed(texts: Texts) -> list[tuple[str, str | None]]:
    """Return a list of pairs: each text becomes (text, None), and each pair stays unchanged. A single text or
    pair becomes a list of one.
    """
    some = [texts] if isinstance(texts, str | tuple) else texts
    pairs: list[tuple[str, str | None]] = []
    for i, one in enumerate(some):
        match one:
            case str():
                pairs.append((one, None))
            case (str(text), str(partner)) if isinstance(one, tuple):
                pairs.append((text, partner))
            case _:
                raise LimitError(f"text {i + 1} must be a text or a pair of texts, got {one!r:.80}")
    return pairs


def singles(texts: str | Sequence[str]) -> list[str]:
    """Return the texts as a list, for a task that takes no pairs. Raises LimitError for a pair."""
    some = [texts] if isinstance(texts, str) else list(texts)
    for i, one in enumerate(some):
        if not isinstance(one, str):
            raise LimitError(f"text {i + 1} must be a single text, got {one!r:.80}")
    return some


def encoded(model: TaskModel, texts: Texts, control_token: str | None = None) -> list[Encoding]:
    """Return the tokens of each text or pair of texts. An Encoding is returned unchanged.

    In the texts, only the name `control_token` becomes a control token. The names of all other control tokens
    are read as plain text. Raises LimitError for a text without tokens, or with more tokens than fit in the
    model's context.
    """
    rows = encodings(model, texts, control_token)
    for i, row in enumerate(rows):
        count, context = len(row.ids), model.config.context
        if not 1 <= count <= context:
            why = "shorten the text" if count else "give a text that isn't empty"
            raise LimitError(f"text {i + 1} has {count} tokens, but must have 1 to {context} tokens: {why}")
    return rows


def encodings(model: TaskModel, texts: Texts, control_token: str | None = None) -> list[Encoding]:
    """Return the tokens of each text or pair of texts, like `encoded`, but without a limit on the number of
    tokens.
    """
    if isinstance(texts, list) and texts and isinstance(texts[0], Encoding):
        return cast(list[Encoding], texts)
    encode = model.text.encode_with_offsets
    return [encode(text, partner, control_token=control_token) for text, partner in listed(texts)]


def cut(row: Encoding, most: int) -> Encoding:
    """Return a row cut to at most `most` tokens. The last tokens of the text are dropped, and the special
    tokens around the text stay.
    """
    last = len(row.ids) - most
    of_text = [i for i, source in enumerate(row.sequence_ids) if source is not None]
    gone = frozenset(of_text[-last:] if last > 0 else ())
    return row.select([i for i in range(len(row.ids)) if i not in gone])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities along the last axis, in float64."""
    exact = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exact / exact.sum(axis=-1, keepdims=True)


def predicted(
    model: TaskModel, rows: Sequence[Encoding], batch: int = BATCH, progress: Progress = silent
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index of the row, output of the head) for each row. The longest rows come first: if they fit in
    memory, all rows do.

    If a head gives an output for each token, the output is cut to the row's own tokens, without padding. The
    arrays are views, so keeping one array keeps the output of its whole batch in memory.
    """
    if batch < 1:
        raise LimitError(f"`batch` must be at least 1, got {batch}")
    has_token_types = model.config.embedding.token_types is not None
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        lengths = np.array([len(rows[i].ids) for i in chosen], np.int64)
        ids = np.zeros((len(chosen), lengths[0]), np.int64)
        types = np.zeros_like(ids)
        for row, i in enumerate(chosen):
            ids[row, : lengths[row]] = rows[i].ids
            types[row, : lengths[row]] = rows[i].type_ids
        output = model.engine.predict(ids, lengths, types if has_token_types else None)
        for row, i in enumerate(chosen):
            logits = output[row, : lengths[row]] if output.ndim == 3 else output[row]
            check_logits(logits)
            yield i, logits
        progress("reading texts", start + len(chosen), len(order))
