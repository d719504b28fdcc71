"""Which tokens attention sees."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

from .bounds import check_bounds, need
from .record import Record, bounded


class AttentionMask(Record):
    """What attention sees of the positions that its stack allows."""

    op: ClassVar[str | None] = None  # the op that makes it, in the place of a window's
    whole: ClassVar[bool] = False  # whether it needs a whole text, of which each token sees later ones too
    kernel_limit: ClassVar[str | None] = None  # why no fused operator has it

    @property
    def window(self) -> int | None:
        """How many positions are seen, the current one included; None for all."""
        return None

    @property
    def settings(self) -> Mapping[str, int]:
        """The arguments of its op, to be passed on together."""
        return {}

    def check(self, at: str, *, plain: bool) -> None:
        """Raise ConfigError where its sizes are too large; scores are `plain` without biases and sinks."""
        check_bounds(at, self)

    def describe(self) -> str:
        """What `inspect` says of it, behind the heads; nothing of what is usual."""
        return ""


class FullAttention(AttentionMask):
    """All positions that the stack allows."""


FULL = FullAttention()


class Window(AttentionMask):
    """The `size` latest positions, the current one included; in an encoder as many ahead."""

    size: int = bounded("context", "window")

    @property
    def window(self) -> int | None:
        return self.size


class BlockSparse(AttentionMask):
    """Blocks of `block` positions: each sees those at most `reach` blocks away.

    The `first` blocks of a text see all and are seen by all.
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
    """Chunks of `size` neighbours: a position sees those of its own chunk, and none before it (Llama 4)."""

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

    A block sees its neighbours, the first and the last block of its text, and the first one `random_blocks`
    times more, in the place of blocks drawn at random. Short texts are seen whole.
    """

    block_size: int = bounded("context", "block_size of the mask")
    random_blocks: int = bounded("context", "random_blocks of the mask", least=0)

    whole = True

    def check(self, at: str, *, plain: bool) -> None:
        super().check(at, plain=plain)
        need(plain, f"{at}BigBird's blocks have scores without biases and sinks")

    @property
    def settings(self) -> Mapping[str, int]:
        return {"block_size": self.block_size, "random_blocks": self.random_blocks}

    @property
    def longest_whole(self) -> int:
        """How many tokens a text has at most that is seen whole."""
        return (5 + 2 * self.random_blocks) * self.block_size

    def numbers(self) -> Iterator[float]:
        yield math.log(1 + self.random_blocks)  # of a block that is seen more than once

    def integers(self) -> Iterator[int]:
        yield self.longest_whole

    def describe(self) -> str:
        return f", in blocks of {self.block_size} from {self.longest_whole + 1} tokens on"


Mask = FullAttention | Window | BlockSparse | Chunked | BigBirdBlocks
