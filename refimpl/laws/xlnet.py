"""Laws of XLNet's attention: relative positions and segments."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..ops.linear import linear
from . import Draw, Subject, law


@law("xlnet_attention")
def each_score_has_its_terms(xlnet_attention: Subject, draw: Draw) -> None:
    """Each score of XLNet's attention contains a term of the key, a term of the sines and cosines of the
    distance, and a term that says whether segments differ.
    """
    call = draw(xlnet_attention.calls())
    a, x, types = call["settings"], call["x"].astype(np.float64), call["token_types"]
    (b, t, d), shape = x.shape, (a.heads, a.head_size)
    q, k, v = (linear(x, call[f"w{n}"]).reshape(b, t, *shape) for n in "qkv")
    u, w = (call[f"{n}_bias"].astype(np.float64).reshape(shape) for n in ("content", "position"))
    scores = np.full((b, a.heads, t, t), -np.inf)
    for row, i, j in np.ndindex(b, t, t):
        if j >= call["lengths"][row]:
            continue
        apart = i - j if a.clamp is None else max(min(i - j, a.clamp), -a.clamp)
        angles = [apart / 10_000 ** (2 * n / d) for n in range(d // 2)]
        vector = np.array([*np.sin(angles), *np.cos(angles)])
        r = linear(vector[None], call["wk_pos"]).reshape(shape)
        score = ((q[row, i] + u) * k[row, j]).sum(1) + ((q[row, i] + w) * r).sum(1)
        if types is not None:
            e = call["segments"][int(types[row, i] != types[row, j])].reshape(shape)
            score = score + ((q[row, i] + call["segment_bias"].reshape(shape)) * e).sum(1)
        scores[row, :, i, j] = score / a.head_size**0.5
    real = np.arange(t) < call["lengths"][:, None]
    scores = np.where(real[:, None, :, None], scores, 0)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    y = np.einsum("bhij,bjhk->bihk", weights, v).reshape(b, t, -1)
    expected, got = linear(y, call["wo"]), xlnet_attention(call)
    hide = ~real[:, :, None]
    xlnet_attention.near(np.where(hide, 0, got), np.where(hide, 0, expected), call)


@law("xlnet_attention")
def only_whether_segments_differ_counts(xlnet_attention: Subject, draw: Draw) -> None:
    """Renaming segments doesn't change the result, and a text of one segment gives the same result as a
    text without segments.
    """
    call, shift = draw(xlnet_attention.calls()), draw(st.integers(0, 5))
    call = call.but(lengths=np.full_like(call["lengths"], call["x"].shape[1]))
    if call["token_types"] is not None:
        other = call.but(token_types=7 - call["token_types"])
        xlnet_attention.near(xlnet_attention(other), xlnet_attention(call), other, call)
        one = call.but(token_types=np.full_like(call["token_types"], shift))
        none = call.but(token_types=None)
        xlnet_attention.near(xlnet_attention(one), xlnet_attention(none), one, none)
