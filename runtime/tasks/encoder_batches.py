"""Many texts through an encoder: sorted by length into batches, so that little is computed for padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...refimpl.decoding.sampling import check_logits
from ...refimpl.errors import LimitError
from ..text.control_tokens import Encoding

if TYPE_CHECKING:
    from .model import Model

BATCH = 32

Texts = str | tuple[str, str] | list[str] | list[tuple[str, str]]
Progress = Callable[[int, int], None]  # rows done, rows in all


def silent(done: int, total: int) -> None:
    """No progress to tell."""


def listed(texts: Texts) -> list[tuple[str, str | None]]:
    """Texts and pairs of texts, one of either being a list of one, as (text, its partner or None)."""
    some: Any = [texts] if isinstance(texts, str | tuple) else texts
    for i, one in enumerate(some):
        pair = isinstance(one, tuple) and len(one) == 2 and all(isinstance(part, str) for part in one)
        if not pair and not isinstance(one, str):
            raise LimitError(f"text {i + 1} must be a text or a pair of texts, got {one!r:.80}")
    return [(text, None) if isinstance(text, str) else text for text in some]


def singles(texts: str | list[str]) -> list[str]:
    """Texts, one being a list of one; LimitError for a pair, which isn't read as such by every task."""
    some: Any = [texts] if isinstance(texts, str) else texts
    for i, one in enumerate(some):
        if not isinstance(one, str):
            raise LimitError(f"text {i + 1} must be a text alone, got {one!r:.80}")
    return list(some)


def encoded(model: Model, texts: Texts, meant: str | None = None) -> list[Encoding]:
    """The tokens of each text; LimitError with both numbers for one that the context has no room for."""
    made = []
    for i, (text, pair) in enumerate(listed(texts)):
        made.append(model.text.read(text, pair, meant=meant))
        count, context = len(made[-1].ids), model.config.context
        if not 1 <= count <= context:
            why = "shorten it" if count else "there is nothing to read"
            raise LimitError(f"text {i + 1} has {count} tokens, the model takes 1 to {context}: {why}")
    return made


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis, in float64."""
    exact = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exact / exact.sum(axis=-1, keepdims=True)


def predicted(
    model: Model, rows: Sequence[Encoding], batch: int = BATCH, progress: Progress = silent
) -> Iterator[tuple[int, np.ndarray]]:
    """(place, what the head says) of each row, the longest rows first: what fits once fits to the end.

    What a head says of each token is cut to the row's own tokens. The arrays are views: whoever keeps
    one keeps its batch.
    """
    if batch < 1:
        raise LimitError(f"a batch must have at least one row, got {batch}")
    engine: Any = model.engine
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        lengths = np.array([len(rows[i].ids) for i in places], np.int64)
        ids = np.zeros((len(places), lengths[0]), np.int64)
        types = np.zeros_like(ids)
        for row, i in enumerate(places):
            ids[row, : lengths[row]], types[row, : lengths[row]] = rows[i].ids, rows[i].types
        known = model.config.embedding.token_types is not None
        said = engine.predict(ids, lengths, types if known else None)
        for row, i in enumerate(places):
            own = said[row, : lengths[row]] if said.ndim == 3 else said[row]
            check_logits(own)
            yield i, own
        progress(start + len(places), len(order))
