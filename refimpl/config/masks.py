"""Which tokens attention sees."""

from __future__ import annotations

from typing import ClassVar, TypedDict

from .record import Record, bounded


class AttentionMask(Record):
    """What attention sees of the positions that its stack allows."""

    kernel_limit: ClassVar[str | None] = None  # why no fused operator has it

    def describe(self) -> str:
        """What `inspect` says of it, behind the heads; nothing of what is usual."""
        return ""


class FullAttention(AttentionMask):
    """All positions that the stack allows."""


FULL = FullAttention()


class Window(AttentionMask):
    """The `size` latest positions, the current one included; in an encoder as many ahead."""

    size: int = bounded("context", "window")


class BlockSparse(AttentionMask):
    """Blocks of `block` positions: each sees those at most `reach` blocks away.

    The `first` blocks of a text see all and are seen by all.
    """

    block: int = bounded("context", "block of the mask")
    reach: int = bounded("context", "reach of the mask", least=0, default=1)
    first: int = bounded("context", "first blocks of the mask", least=0, default=1)
    kernel_limit = "a block-sparse mask needs the standard form"

    def describe(self) -> str:
        return f", block-sparse in blocks of {self.block}"


class Chunked(AttentionMask):
    """Chunks of `size` neighbours: a position sees those of its own chunk, and none before it (Llama 4)."""

    size: int = bounded("context", "chunk of the mask")
    kernel_limit = "chunks that don't see each other need the standard form"

    def describe(self) -> str:
        return f", within chunks of {self.size}"


class BlockSettings(TypedDict):
    """Arguments of `bigbird_attend`."""

    block_size: int
    random_blocks: int


class BigBirdBlocks(AttentionMask):
    """BigBird's blocks of `block_size` positions, in an encoder (`ops.bigbird`).

    A block sees its neighbours, the first and the last block of its text, and the first one `random_blocks`
    times more, in the place of blocks drawn at random. Short texts are seen whole.
    """

    block_size: int = bounded("context", "block_size of the mask")
    random_blocks: int = bounded("context", "random_blocks of the mask", least=0)

    @property
    def settings(self) -> BlockSettings:
        """Both numbers, to be passed on together."""
        return {"block_size": self.block_size, "random_blocks": self.random_blocks}

    @property
    def longest_whole(self) -> int:
        """How many tokens a text has at most that is seen whole."""
        return (5 + 2 * self.random_blocks) * self.block_size

    def describe(self) -> str:
        return f", in blocks of {self.block_size} from {self.longest_whole + 1} tokens on"


Mask = FullAttention | Window | BlockSparse | Chunked | BigBirdBlocks
