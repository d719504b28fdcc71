"""The KV cache of a sliding window: a ring of slots that later tokens overwrite, after slots that stay.

A buffer of S slots keeps the first `sinks` tokens for good and of the others the last S − sinks, token
p at slot p, or from `sinks` on at sinks + (p − sinks) mod (S − sinks). `slack` of these are more than
the window needs, so that as many tokens can be cut back. Memory and work don't grow with the text.
Positions are those of the text, and sinks are seen at their own, as under `causal_mask`; in Xiao et
al. 2023, where sinks come from, they are counted within the buffer, which gives other numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .attention import attend
from .position import rotate

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

    from ..axes import Index

__all__ = ["window_append", "window_attention", "window_floor", "window_positions"]


def _slot(position: int, slots: int, sinks: int) -> int:
    return position if position < sinks else sinks + (position - sinks) % (slots - sinks)


def window_positions(
    past: Float[Array, "B G S K"], lengths: Index[Array, " B", "< O+1"], *, sinks: int = 0
) -> Int[Array, "B S"]:
    """Which token of the text each slot holds after `lengths` tokens; −1 for an empty slot."""
    held = np.full((past.shape[0], past.shape[2]), -1)
    for row, length in enumerate(lengths):
        for position in range(length):
            held[row, _slot(position, past.shape[2], sinks)] = position
    return held


def window_append(
    past: Float[Array, "B G S K"],
    new: Float[Array, "B T G K"],
    start: Index[Array, " B", "< O+1"],
    count: Index[Array, " B", "< T+1"],
    *,
    sinks: int = 0,
) -> Float[Array, "B G S K"]:
    """The buffer after the first count[b] new entries of row b, which stand at start[b] … in the text.

    Conventions: padding isn't written, unlike `append`'s, since it would overwrite what is still seen.
    """
    cache = past.copy()
    for row, (first, real) in enumerate(zip(start, count, strict=True)):
        for t in range(real):
            cache[row, :, _slot(first + t, past.shape[2], sinks)] = new[row, t]
    return cache


def window_floor(
    past: Float[Array, "B G S K"], written: Index[Array, " B", "< O+1"], *, slack: int = 0
) -> Int[Array, " B"]:
    """The least length that a row of which `written` tokens were ever written can be cut back to.

    Below it the next token's window would begin at a token that was overwritten. Nothing was in a
    buffer that never ran over. A caller that cuts back keeps `written`, the most that the row had.
    """
    return np.where(written > past.shape[2], written - slack - 1, 0)


def window_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G K"],
    past_k: Float[Array, "B G S K"],
    past_v: Float[Array, "B G S K"],
    past: Index[Array, " B", "< O+1"],
    count: Index[Array, " B", "< T+1"],
    cos: Float[Array, "L J"] | None = None,
    sin: Float[Array, "L J"] | None = None,
    *,
    sinks: int = 0,
    slack: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
    interleaved: bool = False,
) -> tuple[Float[Array, "B T H K"], Float[Array, "B G S K"], Float[Array, "B G S K"]]:
    """`cached_attention` under a window of S − sinks − slack tokens and sinks, from a buffer of S slots.

    The past in the buffer and the new tokens are attended to before these are written: of several new
    tokens the later ones may overwrite what the earlier ones see. count[b] of them are real. Gives
    the attention's output and the two new buffers. S must be above sinks + slack.
    """
    at = past[:, None] + np.arange(q.shape[1])[None, :]
    if cos is not None and sin is not None:
        q = rotate(q, cos[at], sin[at], interleaved=interleaved)
        k = rotate(k, cos[at], sin[at], interleaved=interleaved)
    held = np.concatenate([window_positions(past_k, past, sinks=sinks), at], axis=1)[:, None, :]
    window, distance = past_k.shape[2] - sinks - slack, at[:, :, None] - held
    seen = (held >= 0) & (distance >= 0) & ((distance < window) | (held < sinks))
    keys = np.concatenate([past_k.transpose(0, 2, 1, 3), k], axis=1)
    values = np.concatenate([past_v.transpose(0, 2, 1, 3), v], axis=1)
    y = attend(q, keys, values, seen, scale=scale, softcap=softcap)
    k_cache = window_append(past_k, k, past, count, sinks=sinks)
    return y, k_cache, window_append(past_v, v, past, count, sinks=sinks)
