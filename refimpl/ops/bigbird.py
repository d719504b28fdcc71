"""BigBird's attention: blocks of tokens see their neighbours, the first and the last block of the text,
and some random blocks (Zaheer et al. 2020, arXiv 2007.14062, §2 and figure 1).

Global blocks see all blocks and are seen by all. Together with near and random blocks, they give each
token a short path to every other token. The number of scores grows linearly with the text, not
quadratically. In training, random blocks are chosen anew each time. When transformers runs the checkpoints
outside of training, nothing is random: each of the r random blocks is the first block, so the first block
counts 1 + r times. For example, a text of eight blocks with r = 1:

    block of keys   0 1 2 3 4 5 6 7
    queries 0       1 1 1 1 1 1 1 1     the first and the last block see all
            1       2 1 1 . . . . 1     2: the first block, and once more as a random one
            2       2 1 1 1 . . . 1
            3       2 . 1 1 1 . . 1
            4       2 . . 1 1 1 . 1
            5       2 . . . 1 1 1 1
            6       2 . . . . 1 1 1
            7       1 1 1 1 1 1 1 1

A key that counts c times has c shares of the softmax: c · exp(score) is exp(score + ln c), a bias of ln c.
The model was trained with random blocks in place of these copies, but transformers runs its published
weights with the copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..config import BigBirdBlocks
from .attention import attend
from .dispatch import op
from .mask import padding_mask

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


@op
def bigbird_attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G V"],
    lengths: Index[Array, " B", "< T+1"],
    *,
    block_size: int,
    random_blocks: int,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "B T H V"]:
    """Compute attention in which each key s counts c_s times: Σ_s c_s exp(score_s) v_s / Σ_s c_s
    exp(score_s). For queries of the middle blocks, a key of the first block counts 1 +
    `random_blocks` times. Every other visible key counts once.

    Conventions: in a text of up to (5 + 2 · random_blocks) · block_size tokens, each token sees the whole
    text, since it would see nearly all blocks anyway. The last block may be shorter. Blocks are counted in
    the row's own text, whatever other rows are in the batch. Rows are padded on the right: no token sees
    padding, and at padding the output is 0.

    transformers differs: it counts a batch's padding as blocks, and uses one form for all rows. So in
    transformers, a text may get other vectors in a batch than alone. Here a text always gets the same
    vectors.
    """
    at = np.arange(q.shape[1])
    mask, bias = bigbird_mask(at, at, lengths, block_size=block_size, random_blocks=random_blocks)
    bias = np.broadcast_to(bias.astype(q.dtype), (len(q), q.shape[2], *mask.shape[1:]))
    y = attend(q, k, v, mask, bias, scale=scale, softcap=softcap)
    return np.where(padding_mask(at, lengths)[:, :, None, None], y, 0)


def bigbird_mask(
    queries: Array, keys: Array, lengths: Array, *, block_size: int, random_blocks: int
) -> tuple[Array, Array]:
    """Return the mask [B, T, S] of visible keys, and the bias [B, 1, T, S] for keys that count several
    times: ln c for a key that counts c times.
    """
    limit = BigBirdBlocks(block_size, random_blocks).longest_whole
    rows, columns = queries[:, None] // block_size, keys // block_size
    ends = lengths[:, None, None]
    last = (ends - 1) // block_size
    middle = (ends > limit) & (rows > 0) & (rows < last)
    seen = (abs(rows - columns) <= 1) | (columns == 0) | (columns == last) | ~middle
    count = np.where(middle & (columns == 0), 1 + random_blocks, 1)
    return seen & (keys < ends), np.log(count)[:, None]
