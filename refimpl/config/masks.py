"""Masks: the settings that say which tokens attention sees."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from .bounds import check_bounds, need
from .record import Record, bounded


class AttentionMask(Record):
    """A setting that limits which positions a token attends to, in addition to the stack's own limit."""

    op: ClassVar[str | None] = None  # the op that makes it, in the place of a window's
    whole: ClassVar[bool] = False  # whether it needs a whole text, of which each token sees later ones too
    kernel_limit: ClassVar[str | None] = None  # why no fused operator has it

    @property
    def window(self) -> int | None:
        """The number of latest positions that a token sees, including its own, or None for all."""
        return None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The keyword arguments for the op that builds this mask."""
        return {}

    def check(self, at: str, *, plain: bool) -> None:
        """Raise ConfigError if the mask's sizes are out of bounds, or if attention can't use this mask.

        `plain` is true if the attention scores have no biases and no sinks. The message begins with `at`.
        """
        check_bounds(at, self)

    def describe(self) -> str:
        """Return the text that `inspect` shows for the mask; "" for a mask that isn't worth mentioning."""
        return ""


class FullAttention(AttentionMask):
    """No limit: a token attends to all positions that the stack allows."""


FULL = FullAttention()


class Window(AttentionMask):
    """Sliding window: a token attends to the `size` latest positions, including its own.

    In an encoder the token also attends to later positions. `later` is their number, also including its own;
    without `later` it is `size`.
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

    The first `first` blocks of a text see all blocks, and all blocks see them.
    """

    block: int = bounded("context", "block of the mask")
    reach: int = bounded("context", "reach of the mask", least=0, default=1)
    first: int = bounded("context", "first blocks of the mask", least=0, default=1)

    op = "block_sparse_mask"
    kernel_limit = "a block-sparse mask needs standard ONNX operators"

    @property
    def settings(self) -> Mapping[str, int]:
        return {"block": self.block, "reach": self.reach, "first": self.first}

    def describe(self) -> str:
        return f", block-sparse in blocks of {self.block}"


class Chunked(AttentionMask):
    """A mask over chunks of `size` positions: a position sees only positions of its own chunk (Llama 4)."""

    size: int = bounded("context", "chunk of the mask")

    op = "chunked_mask"
    kernel_limit = "a mask in chunks needs standard ONNX operators"

    @property
    def settings(self) -> Mapping[str, int]:
        return {"chunk": self.size}

    def describe(self) -> str:
        return f", within chunks of {self.size}"


class BigBirdBlocks(AttentionMask):
    """BigBird's attention over blocks of `block_size` positions, in an encoder (`ops.bigbird`).

    A block sees itself, its two neighbours, and the first and the last block of the text. BigBird also lets
    it see random blocks; here the first block counts `random_blocks` additional times instead. In texts of up
    to `longest_whole` tokens each block sees the whole text.
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
        """The largest number of tokens in a text whose blocks all see the whole text."""
        return (5 + 2 * self.random_blocks) * self.block_size

    def numbers(self) -> Iterator[float]:
        yield math.log(1 + self.random_blocks)  # of a block that is seen more than once

    def integers(self) -> Iterator[int]:
        yield self.longest_whole

    def describe(self) -> str:
        return f", in blocks of {self.block_size} from {self.longest_whole + 1} tokens on"


Mask = FullAttention | Window | BlockSparse | Chunked | BigBirdBlocks
