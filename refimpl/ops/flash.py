"""Flash attention: exact attention in tiles, so that the full matrix of scores is never in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Bool, Float


class Saved(NamedTuple):
    """The values of the forward pass that the backward pass needs: the inputs, the output, and the
    log-sum-exp of each row of scores.
    """

    q: Float[Array, "B T H K"]
    k: Float[Array, "B S G K"]
    v: Float[Array, "B S G V"]
    out: Float[Array, "B T H V"]
    lse: Float[Array, "B H T"]
    mask: Bool[Array, "B T S"] | None = None


@op
def flash_attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G V"],
    mask: Bool[Array, "B T S"] | None = None,
    *,
    tile: int,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H T"]]:
    """Return the same output as `attend`, and log Σ_s exp(score) for each row, computed from tiles of
    scores (Dao 2023, algorithm 1).

    A tile of queries keeps three running values over the tiles of keys: the maximum score m, the sum l of
    exp(score − m), and the sum o of exp(score − m) v. A larger maximum m' rescales l and o by exp(m − m').
    At the end the output is o / l and the log-sum-exp is m + log l.

                       keys
                 +-----+-----+-----+
        queries  |  1 ->  2 ->  3  |   m, l, o   gives output rows of the first tile
                 +-----+-----+-----+
                 |  4 ->  5 ->  6  |   m, l, o   gives output rows of the second tile
                 +-----+-----+-----+

    Conventions: the flag `causal` replaces a mask, since a mask would be a full matrix. The last query is
    at the position of the last key, so query t sees the keys up to S − T + t. A query without keys gives 0
    and −∞.
    """
    b, t, h, _ = q.shape
    s = k.shape[1]
    q, k, v = _queries(q, k.shape[2]), _keys(k), _keys(v)
    out = np.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)
    lse = np.full(q.shape[:-1], -np.inf, q.dtype)
    for rows in _tiles(t, tile):
        top, total, sums = lse[..., rows], np.zeros_like(lse[..., rows]), out[..., rows, :]
        for columns in _tiles(s, tile):
            seen = _seen(mask, rows, columns, t, s, causal)
            scores = _scores(q[..., rows, :], k[..., columns, :], seen, scale, softcap)
            higher = np.maximum(top, scores.max(-1))
            base = np.where(np.isfinite(higher), higher, 0)
            weights, shrink = np.exp(scores - base[..., None]), np.exp(top - base)
            total = total * shrink + weights.sum(-1)
            sums = sums * shrink[..., None] + weights @ v[..., columns, :]
            top = higher
        some = np.where(total == 0, 1, total)
        out[..., rows, :], lse[..., rows] = sums / some[..., None], top + np.log(some)
    return _heads(out), lse.reshape(b, h, t)


@op
def flash_backward(
    saved: Saved,
    grad: Float[Array, "B T H V"],
    *,
    tile: int,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
) -> tuple[Float[Array, "B T H K"], Float[Array, "B S G K"], Float[Array, "B S G V"]]:
    """Return the gradients of q, k and v from the gradient dO of the output. Scores are computed again
    (Dao 2023, algorithm 2).

    In a tile P = exp(score − lse), dV += Pᵀ dO, dP = dO Vᵀ, dS = P ∘ (dP − D) with D the row sums of dO ∘
    O, dQ += scale · dS K and dK += scale · dSᵀ Q. A soft cap multiplies dS by 1 − (score / cap)². A key
    head's gradient is the sum over the query heads that read the key head.
    """
    q, k, v, out, lse, mask = saved
    t, s, groups = q.shape[1], k.shape[1], k.shape[2]
    factor = q.shape[3] ** -0.5 if scale is None else scale
    q, out, grad, k, v = *(_queries(a, groups) for a in (q, out, grad)), _keys(k), _keys(v)
    lse = lse.reshape(q.shape[:-1])
    lse = np.where(np.isfinite(lse), lse, 0)
    dot = (grad * out).sum(-1)
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for columns in _tiles(s, tile):
        for rows in _tiles(t, tile):
            here, there = (..., rows, slice(None)), (..., columns, slice(None))
            seen = _seen(mask, rows, columns, t, s, causal)
            scores = _scores(q[here], k[there], seen, scale, softcap)
            weights = np.exp(scores - lse[..., rows, None])
            slope = weights * (grad[here] @ v[there].swapaxes(-1, -2) - dot[..., rows, None])
            if softcap is not None:
                # 1 − tanh² x = 4 e^−2|x| / (1 + e^−2|x|)², without the difference of two ones.
                raw = _scores(q[here], k[there], np.True_, scale, None)
                away = np.exp(-2 / softcap * abs(raw))
                slope = slope * 4 * away / (1 + away) ** 2
            dv[there] += (weights.swapaxes(-1, -2) @ grad[here]).sum(2, keepdims=True)
            dq[here] += factor * slope @ k[there]
            dk[there] += factor * (slope.swapaxes(-1, -2) @ q[here]).sum(2, keepdims=True)
    return _heads(dq), _heads(dk), _heads(dv)


@op
def merge(
    out: Float[Array, "B T H V"],
    lse: Float[Array, "B H T"],
    other: Float[Array, "B T H V"],
    other_lse: Float[Array, "B H T"],
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H T"]]:
    """Combine the results of attention over two sets of keys into the result over both sets. Each output
    is weighted by the exponential of its log-sum-exp.

    Conventions: a log-sum-exp of −∞ means that no key of the set is visible. This is allowed for both
    sets.
    """
    top = np.maximum(lse, other_lse)
    base = np.where(np.isfinite(top), top, 0)
    a, b = np.exp(lse - base), np.exp(other_lse - base)
    total = np.where(a + b == 0, 1, a + b)
    share = lambda part: (part / total).transpose(0, 2, 1)[..., None]  # noqa: E731
    return share(a) * out + share(b) * other, top + np.log(total)


def _tiles(length: int, tile: int) -> list[slice]:
    return [slice(i, min(i + tile, length)) for i in range(0, length, tile)]


def _queries(x: Array, groups: int) -> Array:
    """Reshape queries from [B, T, H, K] to [B, G, R, T, K]."""
    b, t, h, size = x.shape
    return x.reshape(b, t, groups, h // groups, size).transpose(0, 2, 3, 1, 4)


def _keys(x: Array) -> Array:
    """Reshape keys from [B, S, G, K] to [B, G, 1, S, K]."""
    return x.transpose(0, 2, 1, 3)[:, :, None]


def _heads(x: Array) -> Array:
    """Reshape outputs from [B, G, R, T, V] to [B, T, G·R, V]."""
    b, g, r, t, size = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(b, t, g * r, size)


def _seen(mask: Array | None, rows: slice, columns: slice, t: int, s: int, causal: bool) -> Array:
    """Return the mask of a tile, [B, 1, 1, rows, columns]. Without a mask, B is 1."""
    at, key = np.arange(s - t, s)[rows, None], np.arange(s)[columns]
    seen = (key <= at) if causal else np.ones((len(at), len(key)), bool)
    return seen[None, None, None] if mask is None else (mask[:, rows, columns] & seen)[:, None, None]


def _scores(q: Array, k: Array, seen: Array | np.bool, scale: float | None, softcap: float | None) -> Array:
    """Compute scale · q kᵀ with the soft cap, and −∞ for keys that aren't visible."""
    scores = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    return np.where(seen, scores, -np.inf)
