"""Specify attention as the kernels compute it. kernels.h states the order in which numbers are rounded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy import ndarray as Array

from ...parallel import in_threads
from .arithmetic import LANES, add_products, exp, fma, in_order, tanh

SEGMENT, BLOCK = 512, 64  # keys
AT_ONCE = 1 << 14  # scores, which fit a processor's cache
ROWS = 64  # queries of a head that share a call where there are as many


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
    """Compute `refimpl.ops.attention.attend` in float32 with the kernels' bits. The mask must let each query
    see one range of keys without gaps.
    """
    batch, tokens, heads, size = q.shape
    groups, capacity = k.shape[2], k.shape[1]
    mask = np.broadcast_to(mask, (batch, tokens, capacity))
    low, high = mask.argmax(-1), capacity - mask[..., ::-1].argmax(-1)
    high = np.where(mask.any(-1), high, low)
    assert (mask.sum(-1) == high - low).all(), "the kernels' masks have no gaps"
    q = q * np.float32(size**-0.5 if scale is None else scale)
    sinks = None if sink_logits is None else sink_logits.reshape(groups, -1)
    share = heads // groups
    if bias is not None:
        bias = np.broadcast_to(bias, (batch, heads, tokens, capacity))
        bias = bias.reshape(batch, groups, share, tokens, capacity)
    y = np.empty((batch, tokens, heads, v.shape[3]), np.float32)

    def compute(piece: tuple[int, slice, slice]) -> None:
        b, some, part = piece
        count = part.stop - part.start
        # rows of queries, token by token, the heads of a group side by side: [K, G, R]
        rows = q[b, part].reshape(count, groups, share, size)[:, some]
        rows = rows.transpose(3, 1, 0, 2).reshape(size, -1, count * share)
        seen = np.repeat(np.stack([low[b, part], high[b, part]]), share, axis=1)
        of_sinks = None if sinks is None else np.tile(sinks[some], count)
        added = None  # to scores: [G, S, R]
        if bias is not None:
            added = bias[b, some, :, part].transpose(0, 3, 2, 1).reshape(rows.shape[1], capacity, -1)
        mixed = _mixed(rows, k[b, :, some], v[b, :, some], seen, added, of_sinks, softcap)
        to = y[b, part].reshape(count, groups, share, -1)
        to[:, some] = mixed.reshape(-1, mixed.shape[1], count, share).transpose(2, 1, 3, 0)

    in_threads(compute, [(b, *part) for b in range(batch) for part in _parts(groups, share, tokens)])
    return y


def _parts(groups: int, share: int, tokens: int) -> Iterator[tuple[slice, slice]]:
    """Yield the groups of heads and the tokens that are computed together. No row's bits depend on another
    row.
    """
    count = max(1, min(tokens, -(-ROWS // share)))
    some = max(1, AT_ONCE // (BLOCK * count * share))
    count = max(count, min(tokens, AT_ONCE // (BLOCK * min(some, groups) * share)))
    for start in range(0, tokens, count):
        for first in range(0, groups, some):
            yield slice(first, min(first + some, groups)), slice(start, min(start + count, tokens))


class _Seen:
    """The running results of rows [G, R] over the keys so far: the largest score, the sums of weights in
    lanes, and the weighted sums of values.
    """

    def __init__(self, shape: tuple[int, int], size: int, sinks: Array | None = None) -> None:
        self.largest = np.full(shape, -np.inf, np.float32) if sinks is None else sinks.astype(np.float32)
        self.lanes, self.values = np.zeros((LANES, *shape), np.float32), np.zeros((size, *shape), np.float32)
        if sinks is not None:
            self.lanes[0] = 1


def _mixed(
    q: Array,
    k: Array,
    v: Array,
    seen: Array,
    bias: Array | None,
    sinks: Array | None,
    softcap: float | None,
) -> Array:
    """Return the weighted means [V, G, R] of the values for queries [K, G, R], keys [S, G, K] and values [S,
    G, V].

    Each row sees the keys from `seen[0]` up to, but not including, `seen[1]`.
    """
    shape, size = q.shape[1:], v.shape[2]
    total = _Seen(shape, size, sinks)
    low, high = seen
    some = low < high
    if some.any():
        first, end = low[some].min(), high.max()
        for segment in range(first // SEGMENT * SEGMENT, end, SEGMENT):
            part = _Seen(shape, size)
            rows = np.flatnonzero((low < segment + SEGMENT) & (high > segment) & some)
            if len(rows):
                of = slice(rows[0], rows[-1] + 1)
                _see(part, of, q, k, v, segment, (low[of], high[of]), bias, softcap)
            _take_up(total, part)
    weight = in_order(total.lanes.transpose(1, 2, 0))
    with np.errstate(divide="ignore"):
        return total.values * np.where(weight == 0, np.float32(0), 1 / weight)


def _see(
    part: _Seen,
    of: slice,
    q: Array,
    k: Array,
    v: Array,
    segment: int,
    seen: tuple[Array, Array],
    bias: Array | None,
    cap: float | None,
) -> None:
    """Add the keys of a segment to the running results of some rows, block by block."""
    low, high = seen
    first, end = max(segment, int(low.min())), min(segment + SEGMENT, int(high.max()))
    keys, values = k[first:end], v[first:end]
    scores = np.zeros((keys.shape[1], end - first, len(low)), np.float32)
    add_products(scores, keys.transpose(2, 1, 0), q[:, :, of])
    if cap is not None:
        scores = np.float32(cap) * tanh(scores / np.float32(cap))
    if bias is not None:
        scores += bias[:, first:end, of]
    at = np.arange(first, end)[:, None]
    scores = np.where((at >= low) & (at < high), scores, np.float32(-np.inf))
    begins = [first, *range(first // BLOCK * BLOCK + BLOCK, end, BLOCK)]
    largest = np.maximum.reduceat(scores, np.subtract(begins, first), axis=1)
    largest = np.maximum.accumulate(largest, axis=1)
    part.largest[:, of] = largest[:, -1]
    largest[np.isneginf(largest)] = 0  # of rows that see none yet: their weights are 0
    before = np.concatenate([np.full_like(largest[:, :1], -np.inf), largest[:, :-1]], axis=1)
    factors = exp(before - largest)
    weights = exp(scores - np.repeat(largest, np.diff([*begins, end]), axis=1))
    sums = np.zeros((keys.shape[1], v.shape[2], len(low)), np.float32)
    lanes = np.zeros((LANES, keys.shape[1], len(low)), np.float32)
    for i, (start, stop) in enumerate(pairwise([*begins, end])):
        lanes *= factors[:, i]
        sums *= factors[:, i, None]
        block = weights[:, start - first : stop - first].transpose(1, 0, 2)
        for key in range(start, stop):
            lanes[key % LANES] += block[key - start]
        add_products(sums, values[start - first : stop - first], block)
    part.lanes[:, :, of], part.values[:, :, of] = lanes, sums.transpose(1, 0, 2)


def _take_up(total: _Seen, part: _Seen) -> None:
    """Add a segment's results to the running results. A row that saw no key of the segment stays
    unchanged.
    """
    there = part.largest > -np.inf
    largest = np.maximum(total.largest, part.largest)
    with np.errstate(invalid="ignore"):
        more, kept = exp(part.largest - largest), exp(total.largest - largest)
    for name in ("lanes", "values"):
        old = getattr(total, name)
        setattr(total, name, np.where(there, fma(getattr(part, name), more, old * kept), old))
    total.largest = largest
