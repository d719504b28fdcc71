"""The KV cache of a sliding window: a few slots that stay, then a ring of slots that later tokens overwrite.

A buffer of S slots keeps the first `sinks` tokens for good and of the others the last S − sinks: token
p at slot p, or from `sinks` on at sinks + (p − sinks) mod (S − sinks).

    S = 5, sinks = 1        slot   0   1   2   3   4
    after tokens 0 … 4             0   1   2   3   4
    after tokens 0 … 6             0   5   6   3   4

Slots above sinks + window are slack: as many tokens can be truncated. Memory and work don't grow with the
text. Positions are those of the text, and sinks are seen at their own, as under `causal_mask`. In Xiao et
al. 2023, where sinks come from, positions are counted within the buffer, which gives other numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..config import Attention
from .attention import attend
from .cache import select
from .dispatch import op
from .position import Rotary, rotate

if TYPE_CHECKING:
    from typing import Any as Array

    from jaxtyping import Float, Int

    from ..axes import Index

__all__ = ["WindowCache", "window_append", "window_attention", "window_floor", "window_positions"]


class WindowCache(NamedTuple):
    """The keys and values that a layer with a window keeps, in S slots a row; the first `sinks` stay."""

    keys: Float[Array, "B G S K"]
    values: Float[Array, "B G S K"]
    sinks: int = 0

    @property
    def nbytes(self) -> int:
        """The bytes of keys and values."""
        return self.keys.nbytes + self.values.nbytes

    def select(self, rows: Array) -> WindowCache:
        """The named rows in the named order."""
        return self._replace(keys=select(self.keys, rows), values=select(self.values, rows))

    def grow(self, capacity: int) -> WindowCache:
        """Itself: a ring has room for any number of tokens."""
        return self


def _slot(position: int, slots: int, sinks: int) -> int:
    return position if position < sinks else sinks + (position - sinks) % (slots - sinks)


@op
def window_positions(
    past: Float[Array, "B G S K"], lengths: Index[Array, " B", "< O+1"], *, sinks: int = 0
) -> Int[Array, "B S"]:
    """Which token of the text each slot holds after `lengths` tokens; −1 for an empty slot."""
    positions = np.full((past.shape[0], past.shape[2]), -1)
    for row, length in enumerate(lengths):
        for position in range(length):
            positions[row, _slot(position, past.shape[2], sinks)] = position
    return positions


@op
def window_append(
    past: Float[Array, "B G S K"],
    new: Float[Array, "B T G K"],
    start: Index[Array, " B", "< O+1"],
    count: Index[Array, " B", "< T+1"],
    *,
    sinks: int = 0,
) -> Float[Array, "B G S K"]:
    """The buffer after the first count[b] new entries of row b, which stand at start[b] … in the text.

    Conventions: padding isn't written, unlike in `append`, since it would overwrite what is still seen.
    """
    cache = np.array(past)
    for row, (first, real) in enumerate(zip(start, count, strict=True)):
        for t in range(real):
            cache[row, :, _slot(first + t, past.shape[2], sinks)] = new[row, t]
    return cache


@op
def window_floor(
    past: Float[Array, "B G S K"], written: Index[Array, " B", "< O+1"], *, slack: int = 0
) -> Int[Array, " B"]:
    """The least length that a row can be truncated to, of which `written` tokens were ever written.

    Below it the next token's window would begin at a token that was overwritten. A buffer that was never
    full has overwritten nothing. A caller that truncates keeps `written`, the most tokens that the row had.
    """
    return np.where(written > past.shape[2], written - slack - 1, 0)


@op
def window_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G K"],
    cache: WindowCache,
    past: Index[Array, " B", "< O+1"],
    count: Index[Array, " B", "< T+1"],
    rotary: Rotary | None = None,
    *,
    settings: Attention,
) -> tuple[Float[Array, "B T H K"], WindowCache]:
    """`cached_attention` under the window and sinks, from a cache of at least window + sinks slots.

    The slots and the new tokens are attended to before the new ones are written: of several new tokens the
    later may overwrite what the earlier see. count[b] of them are real. Gives the attention's output and
    the new cache. Slots above window + sinks are slack.
    """
    at = past[:, None] + np.arange(q.shape[1])[None, :]
    if rotary is not None:
        q = rotate(q, rotary.cos[at], rotary.sin[at], interleaved=settings.interleaved)
        k = rotate(k, rotary.cos[at], rotary.sin[at], interleaved=settings.interleaved)
    positions = np.concatenate([window_positions(cache.keys, past, sinks=cache.sinks), at], axis=1)[
        :, None, :
    ]
    distance = at[:, :, None] - positions
    seen = (positions >= 0) & (distance >= 0)
    if settings.window is not None:
        seen = seen & ((distance < settings.window) | (positions < cache.sinks))
    keys = np.concatenate([cache.keys.transpose(0, 2, 1, 3), k], axis=1)
    values = np.concatenate([cache.values.transpose(0, 2, 1, 3), v], axis=1)
    y = attend(q, keys, values, seen, **settings.scoring)
    new_keys = window_append(cache.keys, k, past, count, sinks=cache.sinks)
    new_values = window_append(cache.values, v, past, count, sinks=cache.sinks)
    return y, cache._replace(keys=new_keys, values=new_values)
