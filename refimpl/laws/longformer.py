"""Laws of Longformer's attention: a window, and global tokens with separate projections."""

from __future__ import annotations

import numpy as np

from ..config import FirstToken
from ..ops.attention import attend
from ..ops.linear import linear
from ..ops.sparse import longformer_mask
from . import Call, Draw, Subject, law


def _spread(call: Call) -> np.ndarray:
    """Return how many tokens at the beginning of each row are global."""
    kind = call["settings"].global_tokens
    if kind is None:
        return np.zeros_like(call["lengths"])
    return np.ones_like(call["lengths"]) if isinstance(kind, FirstToken) else call["question"]


@law("question_end")
def the_question_ends_before_the_first_separator(question_end: Subject, draw: Draw) -> None:
    """`question_end` returns the position of the first separator: there is none before it. If a row has no
    separator, the result is the row's length.
    """
    call = draw(question_end.calls())
    tokens, ends = call["tokens"], question_end(call)
    for row, end in zip(tokens, ends, strict=True):
        assert call["separator"] not in row[:end], f"a separator is before position {end} in {row}"
        assert end == len(row) or row[end] == call["separator"], f"no separator is at position {end} in {row}"


@law("longformer_attention")
def it_is_attention_under_the_mask(longformer_attention: Subject, draw: Draw) -> None:
    """Longformer's attention equals attention under `longformer_mask`, computed row by row. Global queries
    use separate maps.
    """
    call = draw(longformer_attention.calls())
    a, x = call["settings"], call["x"].astype(np.float64)
    b, t, _ = x.shape

    def heads(end: str) -> list[np.ndarray]:
        y = (linear(x, call[f"w{n}{end}"], call[f"b{n}{end}"]) for n in "qkv")
        return [part.reshape(b, t, a.heads, a.head_size) for part in y]

    local, y = heads(""), np.zeros((b, t, a.heads * a.head_size))
    for row, (length, spread) in enumerate(zip(call["lengths"], _spread(call), strict=True)):
        if length == 0:
            continue
        q, k, v = (part[row : row + 1, :length] for part in local)
        at = np.arange(length)[None]
        near = attend(q, k, v, longformer_mask(at, at, at < spread, at < spread, reach=a.reach))
        if spread:
            q, k, v = (part[row : row + 1, :length] for part in heads("_global"))
            near[:, :spread] = attend(q[:, :spread], k, v)
        y[row, :length] = near[0].reshape(length, -1)
    past = (np.arange(t) >= call["lengths"][:, None])[:, :, None]
    expected = np.where(past, 0, linear(y, call["wo"], call["bo"]))
    longformer_attention.near(np.where(past, 0, longformer_attention(call)), expected, call)
