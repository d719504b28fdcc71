"""Laws of LongT5's attention: a window, and summaries of blocks."""

from __future__ import annotations

import numpy as np

from ..ops.attention import attend
from ..ops.banded import banded_attend
from ..ops.linear import linear
from . import Call, Draw, Subject, law


def _heads(x: np.ndarray, call: Call) -> list[np.ndarray]:
    """Return queries, keys and values [T, H, K] of the vectors [T, D], in float64."""
    a = call["settings"]
    return [linear(x, call[f"w{name}"]).reshape(len(x), a.heads, a.head_size) for name in "qkv"]


def _shown(y: np.ndarray, call: Call) -> np.ndarray:
    """Return the output with the vectors at padding left out."""
    past = np.arange(y.shape[1]) >= call["lengths"][:, None]
    return np.where(past[:, :, None], 0, y)


@law("longt5_attention")
def it_is_a_softmax_over_near_tokens_and_summaries(longt5_attention: Subject, draw: Draw) -> None:
    """LongT5's attention is a softmax over the tokens within the radius and the sum of each full block of
    the row. The law computes it token by token.
    """
    call = draw(longt5_attention.calls())
    a, size = call["settings"], call["settings"].global_block_size
    expected = np.zeros((*call["x"].shape[:2], a.heads * a.head_size))
    for row, length in enumerate(call["lengths"]):
        x = call["x"][row, :length].astype(np.float64)
        full = 0 if size is None else length // size
        ends = [*range(0, full * (size or 1), size or 1), length][: full + 1]
        sums = [x[ends[g] : ends[g + 1]].sum(0) for g in range(full)]
        norms = [s / np.sqrt((s * s).mean() + a.norm_eps) * call["global_norm"] for s in sums]
        q, k, v = _heads(np.array([*x, *norms]).reshape(-1, x.shape[1]), call)
        for t in range(length):
            near = range(max(t - a.radius, 0), min(t + a.radius + 1, length))
            biases = [call["near"][:, s - t + a.radius] for s in near]
            if size is not None and full:
                own, most = min(t // size, full - 1), call["far"].shape[1] // 2
                biases += [call["far"][:, min(max(g - own, -most), most) + most] for g in range(full)]
            seen = [*near, *range(length, length + full)]
            scores = np.einsum("hk,shk->hs", q[t], k[seen]) + np.array(biases).T
            weights = np.exp(scores - scores.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            expected[row, t] = np.einsum("hs,shv->hv", weights, v[seen]).ravel()
    expected = _shown(linear(expected, call["wo"]), call)
    longt5_attention.near(_shown(longt5_attention(call), call), expected, call)


@law("longt5_attention")
def a_radius_as_long_as_the_text_is_full_attention(longt5_attention: Subject, draw: Draw) -> None:
    """If the radius is as long as the text, each token sees all tokens, with the bias of their distance."""
    call = draw(longt5_attention.calls(A=6, far=None))
    (b, t, _), radius = call["x"].shape, call["settings"].radius
    x, at = call["x"].astype(np.float64), np.arange(t)
    q, k, v = (np.stack(parts) for parts in zip(*(_heads(row, call) for row in x), strict=True))
    bias = call["near"].astype(np.float64)[:, radius + at - at[:, None]]
    real = np.broadcast_to((at < call["lengths"][:, None])[:, None], (b, t, t))
    y = attend(q, k, v, real, np.broadcast_to(bias, (b, *bias.shape)), scale=1.0)
    expected = _shown(linear(y.reshape(b, t, -1), call["wo"]), call)
    longt5_attention.near(_shown(longt5_attention(call), call), expected, call)


@law("longt5_attention")
def without_biases_it_is_a_band(longt5_attention: Subject, draw: Draw) -> None:
    """Without biases and summaries, LongT5's attention equals `banded_attend` with the same window."""
    call = draw(longt5_attention.calls(far=None))
    call = call.but(near=np.zeros_like(call["near"]))
    b, t, _ = call["x"].shape
    x, radius = call["x"].astype(np.float64), call["settings"].radius
    q, k, v = (np.stack(parts) for parts in zip(*(_heads(row, call) for row in x), strict=True))
    real = np.arange(t) < call["lengths"][:, None]
    y = banded_attend(q, k, v, real, band=(radius + 1, radius), scale=1.0)
    expected = _shown(linear(y.reshape(b, t, -1), call["wo"]), call)
    longt5_attention.near(_shown(longt5_attention(call), call), expected, call)
