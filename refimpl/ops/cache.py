"""The cache of keys and values: a layer stores them for earlier tokens, so that they are computed only
once.

A cache is a value: a step takes a cache and returns a new one. Capacity and valid length are separate, and
the owner of the cache stores the lengths. So a caller truncates a row by giving it a smaller length, as
speculative decoding does when the model rejects tokens. The entries past that length are never read, and
later tokens overwrite them.

    row of a batch      capacity L
    before              k0 k1 k2 .  .  .    length 3
    append 2 tokens     k0 k1 k2 k3 k4 .    length 5
    truncate to 4       k0 k1 k2 k3 ?  .    length 4
    append 1 token      k0 k1 k2 k3 k4'.    length 5
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ..config import KVFormat
from .cache_kind import CacheArray, CacheKind
from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class KVCache(NamedTuple):
    """The keys and values that a layer stores of earlier tokens, with room for L tokens per row.

    If the layer stores integer codes, `k_scale` and `v_scale` contain one scale for each channel of a
    head.
    """

    keys: Float[Array, "B G L K"]
    values: Float[Array, "B G L K"]
    k_scale: Float[Array, "G K"] | None = None
    v_scale: Float[Array, "G K"] | None = None

    @property
    def capacity(self) -> int:
        """The number of tokens per row for which the cache has room."""
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """The size of keys and values in bytes."""
        return self.keys.nbytes + self.values.nbytes

    def select(self, rows: Array) -> KVCache:
        """Return a cache of the batch rows with the given numbers, in the given order."""
        return self._replace(keys=select(self.keys, rows), values=select(self.values, rows))

    def grow(self, capacity: int) -> KVCache:
        """Return a cache with the same tokens and with room for exactly `capacity` tokens per row. New
        entries are zeros.
        """
        return self._replace(keys=places(self.keys, capacity), values=places(self.values, capacity))


@dataclass(frozen=True)
class KeysValues(CacheKind):
    """The keys and values of each token, stored as the model's floats, in float16, or as integer codes.
    Two codes of 4 bits share a byte (`pack_nibbles`)."""

    holds = KVCache

    kv_heads: int
    head_size: int
    kv: KVFormat | Literal["float16"] = "float"
    window: int | None = None

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        dtype = {"float": None, "int4": "uint8"}.get(self.kv, self.kv)
        width = self.head_size if self.kv != "int4" else -(-self.head_size // 2)
        axes, numbers = ("batch", self.kv_heads, self.tokens_axis, width), self.head_size
        return CacheArray("k", axes, dtype, numbers), CacheArray("v", axes, dtype, numbers)

    def empty(self, batch: int, capacity: int, dtype: np.dtype) -> KVCache:
        return super().empty(batch, capacity, np.dtype(np.float16) if self.kv == "float16" else dtype)


def places(past: Array, capacity: int) -> Array:
    """Return a cache array with the same content and with room for exactly `capacity` tokens. New entries
    are zeros.
    """
    b, g, held, k = past.shape
    if held >= capacity:
        return past[:, :, :capacity]
    return np.concatenate([past, np.zeros((b, g, capacity - held, k), past.dtype)], axis=2)


@op
def append(
    past: Float[Array, "B G L K"],
    new: Float[Array, "B T G K"],
    start: Index[Array, " B", "< O+1"],
) -> Float[Array, "B G L K"]:
    """Write T new entries of each row b to places start[b] … start[b] + T − 1 of a cache of fixed
    capacity. Returns the new cache.

    New entries are rounded to the cache's type. For float16, this is the nearest number, with halves to
    even. Conventions: only the caller knows the valid length. L must be at least start + T for every row.
    All T entries are written, including the padding of a shorter row. That padding lies past the row's
    valid length, where content is unspecified. A fused kernel may write in place, so the old cache must
    not be read again.
    """
    b = np.arange(new.shape[0])[:, None]
    at = start[:, None] + np.arange(new.shape[1])[None, :]
    cache = past.copy()
    cache[b, :, at] = new
    return cache


@op
def grow(past: Float[Array, "B G S K"], new: Float[Array, "B T G K"]) -> Float[Array, "B G S+T K"]:
    """Return the cache of S entries with T new entries added at the end. This equals `append` with a
    capacity that is always the length.

    Conventions: all rows have the same length. Each step copies the whole cache, so N steps cost O(N²),
    while `append` in place costs O(N).
    """
    return np.concatenate([past, new.transpose(0, 2, 1, 3)], axis=2)


@op
def select(past: Float[Array, "B G S K"], rows: Index[Array, " M", "< B"]) -> Float[Array, "M G S K"]:
    """Return a cache of the batch rows with the given numbers, in the given order. In beam search, a
    number may occur several times or not at all.
    """
    return past[rows]
