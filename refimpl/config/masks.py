"""Masks: the settings that say which tokens attention sees."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from .bounds import check_bounds, need
from .record import Record, bounded


class AttentionMask(Record):
    """The setting that says which positions attention sees, among those that its stack allows."""

    op: ClassVar[str | None] = None  # the op that makes it, in the place of a window's
    whole: ClassVar[bool] = False  # whether it needs a whole text, of which each token sees later ones too
    kernel_limit: ClassVar[str | None] = None  # why no fused operator has it

    @property
    def window(self) -> int | None:
        """The number of positions that are seen, including the current one, or None for all."""
        return None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The arguments that the mask passes to its op, or to that of windows."""
        return {}

    def check(self, at: str, *, plain: bool) -> None:
        """Raise ConfigError if the mask's sizes are too large, or if the mask doesn't work with these scores.
        `plain` says that scores have no biases or sinks.
        """
        check_bounds(at, self)

    def describe(self) -> str:
        """The text that `inspect` shows for the mask after the heads, without usual settings."""
        return ""


class FullAttention(AttentionMask):
    """A mask that allows all positions that the stack allows."""


FULL = FullAttention()


class Window(AttentionMask):
    """A mask that allows the `size` latest positions, the current one included. In an encoder, it also allows
    the same number of later positions, or with `later` that number, the current one included.
    """

    size: int = bounded("context", "window")
    later: int | None = bounded("context", "later positions of the window", default=None)

    @property
    def window(self) -> int | None:
        return self.size

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"window": self.size, "later": self.later}


class BlockSparse(AttentionMask):
    """A mask over blocks of `block` positions: each block sees the blocks that are at most `reach` blocks
    away.

    The `first` blocks of a text see all blocks and are seen by all blocks.
    """

    block: int = bounded("context", "block of the mask")
    reach: int = bounded("context", "reach of the mask", least=0, default=1)
    first: int = bounded("context", "first blocks of the mask", least=0, default=1)

    op = "block_sparse_mask"
    kernel_limit = "a block-sparse mask needs the standard form"

    @property
    def settings(self) -> Mapping[str, int]:
        return {"block": self.block, "reach": self.reach, "first": self.first}

    def describe(self) -> str:
        return f", block-sparse in blocks of {self.block}"


class Chunked(AttentionMask):
    """A mask over chunks of `size` positions: a position sees only positions of its own chunk (Llama 4)."""

    size: int = bounded("context", "chunk of the mask")

    op = "chunked_mask"
    kernel_limit = "chunks that don't see each other need the standard form"

    @property
    def settings(self) -> Mapping[str, int]:
        return {"chunk": self.size}

    def describe(self) -> str:
        return f", within chunks of {self.size}"


class BigBirdBlocks(AttentionMask):
    """BigBird's blocks of `block_size` positions, in an encoder (`ops.bigbird`).

    A block sees its neighbours and the first and the last block of its text. The first block counts
    `random_blocks` additional times, in place of random blocks. In short texts each block sees the whole
    text.
    """

    block_size: int = bounded("context", "block_size of the mask")
    random_blocks: int = bounded("context", "random_blocks of the mask", least=0)

    whole = True

    def check(self, at: str, *, plain: bool) -> None:
        super().check(at, plain=plain)
        need(plain, f"{at}BigBird's attention must have no biases of scores and no sinks")

    @property
    def settings(self) -> Mapping[str, int]:
        return {"block_size": self.block_size, "random_blocks": self.random_blocks}

    @property
    def longest_whole(self) -> int:
        """The largest length of a text, in tokens, in which each block sees the whole text."""
        return (5 + 2 * self.random_blocks) * self.block_size

    def numbers(self) -> Iterator[float]:
        yield math.log(1 + self.random_blocks)  # of a block that is seen more than once

    def integers(self) -> Iterator[int]:
        yield self.longest_whole

    def describe(self) -> str:
        return f", in blocks of {self.block_size} from {self.longest_whole + 1} tokens on"


Mask = FullAttention | Window | BlockSparse | Chunked | BigBirdBlocks
