"""Which layers of a decoder need only the latest tokens, and how many of them a cache keeps."""

from __future__ import annotations

from ...refimpl.config import Config, Window

# Tokens beyond a window that stay, for drafts that are refused.
SLACK = 32
# Tokens that a buffer has place for beside those that stay, and so the most of a run: with more at a time
# attention only takes longer, since the operator scores all that is in the buffer.
PIECE = 128


def of_layer(config: Config, layer: int) -> int | None:
    """How many tokens a decoder's layer sees, if it is fewer than a text may have."""
    pattern = config.layers[layer].attention.mask
    return pattern.size if isinstance(pattern, Window) and pattern.size < config.context else None


def sizes(config: Config) -> tuple[int, ...]:
    """The windows of a decoder's layers, each once, in ascending order."""
    found = (of_layer(config, i) for i in range(len(config.layers)))
    return tuple(sorted({size for size in found if size is not None}))


def kept(size: int) -> int:
    """Tokens that stay when a buffer is full: what the next one's window has beside itself, and the slack."""
    return size - 1 + SLACK


def places(size: int | None, capacity: int, piece: int | None = None) -> int:
    """Of a layer's buffers in a cache for `capacity` tokens: enough for a window, or for all without one."""
    return capacity if size is None else min(capacity, kept(size) + (piece or PIECE))
