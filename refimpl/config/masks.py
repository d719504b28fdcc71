"""Which tokens attention sees."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FullAttention:
    """All positions that the stack allows."""


FULL = FullAttention()


@dataclass(frozen=True)
class Window:
    """The `size` latest positions, the current one included; in an encoder as many ahead."""

    size: int


@dataclass(frozen=True)
class BlockSparse:
    """Blocks of `block` positions: each sees those at most `reach` blocks away.

    The `first` blocks of a text see all and are seen by all.
    """

    block: int
    reach: int = 1
    first: int = 1


@dataclass(frozen=True)
class Chunked:
    """Chunks of `size` neighbours: a position sees those of its own chunk, and none before it (Llama 4)."""

    size: int


Mask = FullAttention | Window | BlockSparse | Chunked
