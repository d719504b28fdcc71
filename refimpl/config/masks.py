"""Which tokens attention sees."""

from __future__ import annotations

from typing import TypedDict

from .record import Record


class FullAttention(Record):
    """All positions that the stack allows."""


FULL = FullAttention()


class Window(Record):
    """The `size` latest positions, the current one included; in an encoder as many ahead."""

    size: int


class BlockSparse(Record):
    """Blocks of `block` positions: each sees those at most `reach` blocks away.

    The `first` blocks of a text see all and are seen by all.
    """

    block: int
    reach: int = 1
    first: int = 1


class Chunked(Record):
    """Chunks of `size` neighbours: a position sees those of its own chunk, and none before it (Llama 4)."""

    size: int


class BlockSettings(TypedDict):
    """Arguments of `bigbird_attend`."""

    block_size: int
    random_blocks: int


class BigBirdBlocks(Record):
    """BigBird's blocks of `block_size` positions, in an encoder (`ops.bigbird`).

    A block sees its neighbours, the first and the last block of its text, and the first one `random_blocks`
    times more, in the place of blocks drawn at random. Short texts are seen whole.
    """

    block_size: int
    random_blocks: int

    @property
    def settings(self) -> BlockSettings:
        """Both numbers, to be passed on together."""
        return {"block_size": self.block_size, "random_blocks": self.random_blocks}

    @property
    def longest_whole(self) -> int:
        """How many tokens a text has at most that is seen whole."""
        return (5 + 2 * self.random_blocks) * self.block_size


Mask = FullAttention | Window | BlockSparse | Chunked | BigBirdBlocks
