"""Laws of BigBird's attention, in which some blocks of a text count several times."""

from __future__ import annotations

import numpy as np

from ..ops.attention import attend
from ..ops.sparse import BlockPairs, sparse_attend
from . import Draw, Subject, law


@law("bigbird_attend")
def each_row_is_pairs_of_blocks(bigbird_attend: Subject, draw: Draw) -> None:
    """BigBird's attention equals block-sparse attention in which a pair of blocks that is listed twice
    counts twice. A short text equals plain attention. At padding, the result is zero.
    """
    call = draw(bigbird_attend.calls(largest=12))
    size, chosen = call["block_size"], call["random_blocks"]
    scale, softcap = call["scale"], call["softcap"]
    expected = np.zeros((*call["q"].shape[:3], call["v"].shape[3]))
    for row, length in enumerate(call["lengths"]):
        q, k, v = (call[name][row : row + 1, :length].astype(np.float64) for name in "qkv")
        if length <= (5 + 2 * chosen) * size:
            if length:
                expected[row, :length] = attend(q, k, v, scale=scale, softcap=softcap)[0]
            continue
        blocks = -(-length // size)
        padding = [(0, 0), (0, blocks * size - length), (0, 0), (0, 0)]
        q, k, v = (np.pad(a, padding).reshape(1, blocks, size, *a.shape[2:]) for a in (q, k, v))
        keys = (np.arange(blocks * size) < length).reshape(1, blocks, size)
        y = sparse_attend(q, k, v, _pairs(blocks, chosen), keys, scale=scale, softcap=softcap)
        expected[row, :length] = y.reshape(1, blocks * size, *y.shape[3:])[0, :length]
    bigbird_attend.near(bigbird_attend(call), expected, call)


def _pairs(blocks: int, chosen: int) -> BlockPairs:
    """Return the blocks of keys that each block of queries sees. In the middle of the text, the first
    block is repeated.
    """
    seen = [list(range(blocks)) for _ in range(blocks)]
    for row in range(1, blocks - 1):
        seen[row] = sorted({0, row - 1, row, row + 1, blocks - 1}) + [0] * chosen
    rows = np.repeat(np.arange(blocks), [len(columns) for columns in seen])
    return BlockPairs(rows, np.concatenate(seen))


@law("bigbird_attend")
def what_stands_past_a_row_changes_nothing(bigbird_attend: Subject, draw: Draw) -> None:
    """A row gives the same result in a batch with longer rows as in a batch of its own length."""
    call = draw(bigbird_attend.calls(largest=12))
    alone = bigbird_attend.take(bigbird_attend.take(call, "B", [0]), "T", np.arange(call["lengths"][0]))
    if call["lengths"][0]:
        got = bigbird_attend(call)[:1, : call["lengths"][0]]
        bigbird_attend.near(got, bigbird_attend(alone), call, alone)
