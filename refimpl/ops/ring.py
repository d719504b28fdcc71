"""Ring attention: a sequence is split over several ranks (devices), which pass their keys and values
around in a ring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from .dispatch import op
from .flash import flash_attend, merge

if TYPE_CHECKING:
    from ..axes import Array, Float, Index, Int


class Placement(NamedTuple):
    """On which rank each token is. `owner` is the rank of each token, and `ranks` is 0 … X−1."""

    owner: Index[Array, " T", "< X"]
    ranks: Int[Array, " X"]


@op
def place(
    positions: Int[Array, " T"],
    ranks: Int[Array, " X"],
    *,
    placement: Literal["contiguous", "zigzag", "striped"],
) -> Int[Array, " T"]:
    """Return the rank that each token of a sequence is on, for a named placement. `positions` is 0 … T−1,
    and `ranks` is 0 … X−1.

    With "contiguous", the sequence is cut into X slices, one for each rank in order (Liu et al. 2023).
    With "zigzag", it is cut into 2X slices, and rank r has the r-th slice from the front and the r-th from
    the back (as in Llama 3's context parallelism, Grattafiori et al. 2024, §3.3.2). With "striped", token
    t is on rank t mod X (Brandon et al. 2023). With a causal mask, contiguous gives the last rank the most
    work; the other two placements balance the work. Conventions: token t is in slice ⌊t · slices / T⌋, so
    that lengths differ by one at most.
    """
    count = len(ranks)
    if placement == "striped":
        return positions % count
    slices = count if placement == "contiguous" else 2 * count
    slice_ = positions * slices // len(positions)
    return slice_ if placement == "contiguous" else np.minimum(slice_, slices - 1 - slice_)


@op
def ring_attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G V"],
    placement: Placement,
    *,
    tile: int,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "B T H V"]:
    """Compute `attend` on several ranks, where each rank stores a part of the tokens (Liu et al. 2023,
    algorithm 1).

    Rank owner[t] stores token t. In step i, rank r has the keys and values of rank r − i. It attends to
    these keys, and merges the result into its earlier result by the log-sum-exps. Then each rank passes
    its keys and values to the next rank.

        step    rank 0   rank 1   rank 2
        0       kv 0     kv 1     kv 2
        1       kv 2     kv 0     kv 1
        2       kv 1     kv 2     kv 0

    The ranks are simulated here, one after the other. Conventions: any placement is allowed, even if a
    rank has no tokens. A causal mask compares positions in the text, not positions on a rank.
    """
    count = len(placement.ranks)
    tokens = [np.nonzero(placement.owner == rank)[0] for rank in range(count)]
    blocks = [(k[:, at], v[:, at], at) for at in tokens]
    b, h = q.shape[0], q.shape[2]
    done = [
        (np.zeros((b, len(at), h, v.shape[3]), q.dtype), np.full((b, h, len(at)), -np.inf, q.dtype))
        for at in tokens
    ]
    for _ in range(count):
        for rank, at in enumerate(tokens):
            near_k, near_v, keys_at = blocks[rank]
            seen = np.ones((len(at), len(keys_at)), bool)
            if causal:
                seen = keys_at[None, :] <= at[:, None]
            part = flash_attend(
                q[:, at], near_k, near_v, np.broadcast_to(seen, (b, *seen.shape)),
                tile=tile, scale=scale, softcap=softcap,
            )  # fmt: skip
            done[rank] = merge(*done[rank], *part)
        blocks = [blocks[rank - 1] for rank in range(count)]
    out = np.zeros((*q.shape[:3], v.shape[3]), q.dtype)
    for at, (part, _) in zip(tokens, done, strict=True):
        out[:, at] = part
    return out
