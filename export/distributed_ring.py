"""Compute ring attention over torch.distributed, where each process stores a part of the sequence.

Each rank sends its block of keys and values to the next rank, and receives the block of the previous rank.
During the transfer, a rank computes attention to the block that it already received. The same code runs on
gloo and on nccl. `refimpl/ops/ring.py` specifies ring attention with simulated ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import distributed

from ..refimpl.errors import ConfigError, DeviceError
from ..refimpl.ops.flash import flash_attend, merge
from .dispatch import on_torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor as Array


def ring_attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G V"],
    positions: Int[Array, " T"],
    group: distributed.ProcessGroup | None = None,
    *,
    tile: int,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "B T H V"]:
    """Compute the op `attend` over the tokens of all ranks of the group. Each rank gets the results for its
    own tokens.

    `positions` are the positions of this rank's tokens in the text. T may differ from rank to rank and may be
    0. Every rank of the group must call this function. Raises ConfigError on all ranks if the shapes of two
    ranks don't fit. Raises DeviceError if a neighbour is lost, after the timeout of the process group.
    """
    rank, count = distributed.get_rank(group), distributed.get_world_size(group)
    block = [k.contiguous(), v.contiguous(), positions.contiguous()]
    out = q.new_zeros(*q.shape[:3], v.shape[3])
    lse = q.new_full((q.shape[0], q.shape[2], q.shape[1]), -torch.inf)
    try:
        lengths = _lengths(q, block, group)
        for step in range(count):
            source = (rank - step) % count
            last = step == count - 1
            if last:
                transfers, next_block = [], block
            else:
                transfers, next_block = _exchange(block, lengths, source, group)
            if lengths[rank] and lengths[source]:
                mask = (block[2] <= positions[:, None]).expand(q.shape[0], -1, -1) if causal else None
                with on_torch():
                    part = flash_attend(q, block[0], block[1], mask, tile=tile, scale=scale, softcap=softcap)
                    out, lse = merge(out, lse, *part)
            for transfer in transfers:
                transfer.wait()
            block = next_block
    except (RuntimeError, distributed.DistError) as error:
        reason = f"rank {rank} of {count} can't exchange keys and values with the other ranks: {error}"
        raise DeviceError(
            f"{' '.join(reason.split())}; start every rank, and call ring_attend exactly once in each rank"
        ) from error
    return out


def _lengths(q: Array, block: list[Array], group: distributed.ProcessGroup | None) -> list[int]:
    """Return the number of tokens of each rank. Raises ConfigError if the shapes of two ranks don't fit."""
    k, v, positions = block
    shapes = [q.shape[0], q.shape[2], *k.shape[2:], v.shape[3], q.element_size()]
    sizes = torch.tensor([len(positions), *shapes], device=q.device)
    gathered = [torch.empty_like(sizes) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(gathered, sizes, group=group)
    rows = [row.tolist() for row in gathered]
    for rank, row in enumerate(rows):
        if row[1:] != rows[0][1:]:
            names = "batch, query heads, key heads, key size, value size, bytes per number"
            raise ConfigError(
                f"all ranks of a ring must have the same {names}: rank {rank} has {row[1:]}, but "
                f"rank 0 has {rows[0][1:]}"
            )
    return [row[0] for row in rows]


def _exchange(
    block: list[Array], lengths: list[int], source: int, group: distributed.ProcessGroup | None
) -> tuple[list[distributed.Work], list[Array]]:
    """Start to send `block` to the next rank, and to receive the next block from the previous rank. `source`
    is the rank on which `block` began.

    Returns the transfers, and the arrays that they fill.
    """
    rank, count = distributed.get_rank(group), distributed.get_world_size(group)
    size = lengths[(source - 1) % count]
    k, v, positions = block
    received = [
        k.new_empty((k.shape[0], size, *k.shape[2:])),
        v.new_empty((v.shape[0], size, *v.shape[2:])),
        positions.new_empty(size),
    ]
    following, preceding = (rank + 1) % count, (rank - 1) % count
    if group is not None:
        following = distributed.get_global_rank(group, following)
        preceding = distributed.get_global_rank(group, preceding)
    operations = []
    if lengths[source]:
        operations += [distributed.P2POp(distributed.isend, a, following, group) for a in block]
    if size:
        operations += [distributed.P2POp(distributed.irecv, a, preceding, group) for a in received]
    transfers = distributed.batch_isend_irecv(operations) if operations else []
    return transfers, received
