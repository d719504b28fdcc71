"""Block-sparse attention: queries and keys are divided into blocks, and a list says which pairs of blocks
are computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .attention import attend
from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Bool, Float, Index, Int


class BlockPairs(NamedTuple):
    """The pairs of blocks that are computed: query block rows[m] attends to key block columns[m].

    `mask` [M, A, A] says which tokens see each other inside each pair.
    """

    rows: Index[Array, " M", "< Y"]
    columns: Index[Array, " M", "< Z"]
    mask: Bool[Array, "M A A"] | None = None


@op
def sparse_attend(
    q: Float[Array, "B Y A H K"],
    k: Float[Array, "B Z A G K"],
    v: Float[Array, "B Z A G V"],
    pairs: BlockPairs,
    keys: Bool[Array, "B Z A"] | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "B Y A H V"]:
    """Compute block-sparse attention: each block of queries attends to the blocks of keys that it is
    paired with.

    Only these blocks are gathered, so time and memory grow with the number M of pairs. `keys` says which
    keys are real (the last block may be padded). For the pairs of a pattern (`block_pairs`), the result
    equals the result of `attend` with the pattern's `block_mask`. Conventions: a pair that is listed twice
    counts twice; the output of a query that sees no key is 0.
    """
    b, y, a, h, _ = q.shape
    rows, columns, mask = pairs
    out = np.zeros((b, y, a, h, v.shape[4]), q.dtype)
    order = np.argsort(rows, kind="stable")
    ends = np.searchsorted(rows[order], np.arange(y + 1))
    for row in range(y):
        here = order[ends[row] : ends[row + 1]]
        near = columns[here]
        flat = lambda x, near=near: x[:, near].reshape(b, len(near) * a, *x.shape[3:])  # noqa: E731
        seen = np.ones((b, a, len(here) * a), bool)
        if mask is not None:
            seen = seen & mask[here].transpose(1, 0, 2).reshape(a, -1)
        if keys is not None:
            seen = seen & flat(keys)[:, None]
        out[:, row] = attend(q[:, row], flat(k), flat(v), seen, scale=scale, softcap=softcap)
    return out


@op
def block_pairs(pattern: Bool[Array, "Y Z"]) -> tuple[Int[Array, " M"], Int[Array, " M"]]:
    """Return the pairs of blocks in a pattern, row by row, in the form that `sparse_attend` takes."""
    rows, columns = np.nonzero(pattern)
    return rows, columns


@op
def block_mask(
    queries: Index[Array, "B T", "< Y"],
    keys: Index[Array, " S", "< Z"],
    pattern: Bool[Array, "Y Z"],
) -> Bool[Array, "B T S"]:
    """Return the mask over tokens that a pattern of blocks means. `queries` and `keys` say in which block
    each token is.
    """
    return pattern[queries][:, :, keys]


@op
def bigbird_pattern(
    rows: Int[Array, " Y"],
    columns: Int[Array, " Z"],
    chosen: Index[Array, "Y I", "< Z"],
    *,
    reach: int,
    first: int,
) -> Bool[Array, "Y Z"]:
    """Return BigBird's pattern of blocks, which joins window, global and random blocks (Zaheer et al.
    2020, §2 and figure 1).

    `rows` and `columns` number the blocks. A block sees the `reach` blocks on each side of itself. The
    `first` blocks see all blocks and are seen by all (the paper's internal global tokens, ITC). Block y
    also sees the blocks chosen[y]. Conventions: the paper draws these blocks at random. Here the caller
    gives them.
    """
    window = abs(rows[:, None] - columns[None, :]) <= reach
    spread = (rows[:, None] < first) | (columns[None, :] < first)
    pattern = window | spread
    pattern[np.arange(len(rows))[:, None], chosen] = True
    return pattern


@op
def longformer_mask(
    queries: Int[Array, "B T"],
    keys: Int[Array, "B S"],
    query_global: Bool[Array, "B T"],
    key_global: Bool[Array, "B S"],
    *,
    reach: int,
) -> Bool[Array, "B T S"]:
    """Return a mask that is true where query and key are at most `reach` tokens apart, and where either of
    them is global.

    In Beltagy et al. 2020 (§3.1), a sliding window of width w is reach = w / 2, and a global token attends
    to all tokens and all attend to it. Positions of keys have a batch axis, so that the same function can
    give the mask inside pairs of blocks. Each pair is then a row of the batch.
    """
    near = abs(queries[:, :, None] - keys[:, None, :]) <= reach
    return near | query_global[:, :, None] | key_global[:, None, :]


@op
def longformer_layout(
    is_global: Bool[Array, "Y A"],
    *,
    reach: int,
) -> Bool[Array, "Y Y"]:
    """Return the pairs of blocks that contain at least one pair of tokens that `longformer_mask` allows.

    The last token of block i and the first token of block j > i are (j − i − 1) · A + 1 apart.
    """
    y, a = is_global.shape
    apart = abs(np.arange(y)[:, None] - np.arange(y)[None, :])
    some = np.any(is_global, axis=1)
    return ((apart - 1) * a + 1 <= reach) | (apart == 0) | some[:, None] | some[None, :]
