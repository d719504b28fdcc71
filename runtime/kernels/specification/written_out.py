"""Specify attention of kinds that no single kernel computes.

The graph computes such attention by several operators. Its products and its softmax are kernels.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy import ndarray as Array

from ....refimpl.config import BigBirdBlocks
from ....refimpl.ops.mask import padding_mask
from .arithmetic import add_products, exp, row_sum, tanh

ONE = np.float32(1)


def attend(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    bias: Array | None = None,
    sink_logits: Array | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Array:
    """Compute `refimpl.ops.attention.attend` in float32. q is multiplied by the scale first; then come
    `product`, cap, bias and mask.
    """
    return _mixed(q * _factor(q.shape[3], scale), k, v, mask, bias, sink_logits, softcap)


def _mixed(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    bias: Array | None = None,
    sink_logits: Array | None = None,
    softcap: float | None = None,
    factor: np.float32 = ONE,
) -> Array:
    """Return the heads' outputs [B, T, H, V]. `factor` multiplies the products of queries and keys."""
    batch, tokens, heads, size = q.shape
    groups = k.shape[2]
    q = q.reshape(batch, tokens, groups, -1, size).transpose(0, 2, 3, 1, 4)
    scores = product(q, k.transpose(0, 2, 3, 1)[:, :, None]).reshape(batch, heads, tokens, -1) * factor
    if softcap is not None:
        scores = np.float32(softcap) * tanh(scores / np.float32(softcap))
    weights = _softmax(scores if bias is None else scores + bias, mask, sink_logits)
    mixed = product(weights.reshape(batch, groups, -1, *scores.shape[2:]), v.swapaxes(1, 2)[:, :, None])
    return mixed.reshape(batch, heads, tokens, -1).swapaxes(1, 2)


def banded_attend(
    q: Array,
    k: Array,
    v: Array,
    keys: Array | None = None,
    *,
    band: tuple[int, int],
    sinks: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
) -> Array:
    """Compute `refimpl.ops.banded.banded_attend` in float32, with band[0] queries at a time. The products are
    multiplied by the scale. The softmax's row has the keys around the queries, and then the sinks.
    """
    (before, after), count = band, q.shape[1]
    real = np.ones(q.shape[:2], bool) if keys is None else keys
    parts = []
    for start in range(0, count, before):
        at = np.arange(start, min(start + before, count))[:, None]
        near, first = np.arange(start + 1 - before, start + before + after), np.arange(sinks)
        places = np.concatenate([near, first])
        # A sink in the window is one key.
        inside = np.concatenate([(at - near < before) & (at - near >= -after), at - first >= before], axis=1)
        read = np.clip(places, 0, count - 1)
        seen = (inside & (places == read)) & real[:, None, read]
        factor = _factor(q.shape[3], scale)
        parts.append(_mixed(q[:, at[:, 0]], k[:, read], v[:, read], seen, softcap=softcap, factor=factor))
    return np.concatenate(parts, axis=1)


def distance_scores(
    q: Array,
    k: Array,
    rows: Array,
    q_pos: Array | None = None,
    k_pos: Array | None = None,
    *,
    scale: float | None = None,
) -> Array:
    """Compute `refimpl.ops.disentangled.distance_scores` in float32. The queries of both terms are multiplied
    by the scale first; then come the products.
    """
    factor = _factor(q.shape[3], scale)
    scores = np.zeros((len(q), q.shape[2], q.shape[1], k.shape[1]), np.float32)
    if k_pos is not None:
        by_row = product((q * factor).swapaxes(1, 2), k_pos.transpose(1, 2, 0))
        scores = np.take_along_axis(by_row, rows[None, None], axis=3)
    if q_pos is not None:
        by_row = product((q_pos * factor).swapaxes(0, 1), k.transpose(0, 2, 3, 1))
        scores = scores + np.take_along_axis(by_row, rows[None, None], axis=2)
    return scores


def absorbed_attend(
    q: Array, latents: Array, wk_b: Array, wv_b: Array, mask: Array, *, scale: float | None = None
) -> Array:
    """Compute `refimpl.ops.latent_attention.absorbed_attend` in float32. q is multiplied by the scale first;
    then come the products.
    """
    batch, tokens, heads, size = q.shape
    wk, wv = (w.reshape(len(w), heads, -1).transpose(1, 0, 2) for w in (wk_b, wv_b))  # [H, C, F]
    plain, rotated = np.split((q * _factor(size, scale)).swapaxes(1, 2), [wk.shape[2]], axis=-1)
    absorbed = np.concatenate([product(plain, wk.swapaxes(1, 2)), rotated], axis=-1)
    scores = product(absorbed.reshape(batch, heads * tokens, -1), latents.swapaxes(1, 2))
    weights = _softmax(scores.reshape(batch, heads, tokens, -1), mask)
    mean = product(weights.reshape(*scores.shape), latents[..., : len(wk_b)])
    return product(mean.reshape(batch, heads, tokens, -1), wv).swapaxes(1, 2)


def bigbird_attend(
    q: Array,
    k: Array,
    v: Array,
    lengths: Array,
    *,
    block_size: int,
    random_blocks: int,
    scale: float | None = None,
    softcap: float | None = None,
) -> Array:
    """Compute `refimpl.ops.bigbird.bigbird_attend` in float32. For a block of queries in the middle of a long
    text, the softmax's row has the keys of five blocks: the first block, the block itself with its two
    neighbours, and the last block. A key's place in this row decides to which lane of the sum it belongs.
    """
    at, size = np.arange(q.shape[1]), block_size
    limit, mask = BigBirdBlocks(size, random_blocks).longest_whole, padding_mask(at, lengths)
    heads = partial(attend, scale=scale, softcap=softcap)
    y = heads(q, k, v, np.broadcast_to(mask[:, None], (*mask.shape, len(at))))
    bias = np.zeros((1, q.shape[2], 1, 5 * size), np.float32)
    bias[..., :size] = np.float32(np.log(1 + random_blocks))
    for b, length in enumerate(lengths):
        last = (length - 1) // size
        for block in range(1, last) if length > limit else ():
            near = np.arange(size * (block - 1), size * (block + 2))
            places = np.concatenate([at[:size], near, np.arange(size * last, size * (last + 1))])
            seen = places < length
            seen[size:-size] = (near >= size) & (near < size * last)
            some, places = slice(b, b + 1), np.minimum(places, at[-1])
            rows = slice(size * block, size * (block + 1))
            y[some, rows] = heads(q[some, rows], k[some, places], v[some, places], seen[None, None], bias)
    return np.where(mask[:, :, None, None], y, np.float32(0))


def _factor(size: int, scale: float | None) -> np.float32:
    return np.float32(size**-0.5 if scale is None else scale)


def product(a: Array, b: Array) -> Array:
    """Return a @ b. Each element is a sum by `fma` in order, starting at 0."""
    leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (np.broadcast_to(x, (*leading, *x.shape[-2:])).reshape(-1, *x.shape[-2:]) for x in (a, b))
    sums = np.zeros((len(a), a.shape[1], b.shape[2]), np.float32)
    add_products(sums, np.ascontiguousarray(a.transpose(2, 0, 1)), np.ascontiguousarray(b.swapaxes(0, 1)))
    return sums.reshape(*leading, *sums.shape[1:])


def _softmax(scores: Array, mask: Array, sinks: Array | None = None) -> Array:
    """Return exp(x - the largest), divided by their sum in lanes, for scores [B, H, T, S] and a mask [B, T,
    S].

    If a head has a sink, the sink is the first number of each of its rows.
    """
    mask = mask[:, None]
    scores = np.where(mask, scores, np.finfo(np.float32).min)
    if sinks is not None:
        first = np.broadcast_to(sinks[:, None, None], (*scores.shape[:3], 1))
        scores = np.concatenate([first, scores], axis=-1)
    weights = exp(scores - scores.max(-1, keepdims=True))
    weights = weights / row_sum(weights)
    return np.where(mask, weights if sinks is None else weights[..., 1:], np.float32(0))
