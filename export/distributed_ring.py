"""Ring attention over torch.distributed: each process holds a part of the sequence.

The same code runs on gloo and on nccl: point-to-point sends to the next rank, receives from the one
before, while the block at hand is being computed. `refimpl/ops/ring.py` specifies it by simulated ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import distributed

from ..refimpl.errors import ConfigError, DeviceError
from .ops.flash import flash_attend, merge

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor as Array

__all__ = ["ring_attend"]


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
    """This rank's rows of `attend` over the tokens of all ranks of the group.

    `positions` says where this rank's tokens stand in the text; T may differ from rank to rank and be
    0. Every rank of the group must call. A ConfigError on all of them if their shapes don't fit, a
    DeviceError if a neighbour is lost; how long that takes is the process group's timeout.
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
            moving, coming = ([], block) if last else _pass_on(block, lengths, source, group)
            if lengths[rank] and lengths[source]:
                at = block[2] if causal else torch.zeros_like(block[2])
                seen = at <= (positions if causal else torch.zeros_like(positions))[:, None]
                mask = seen.expand(q.shape[0], -1, -1)
                part = flash_attend(q, block[0], block[1], mask, tile=tile, scale=scale, softcap=softcap)
                out, lse = merge(out, lse, *part)
            for work in moving:
                work.wait()
            block = coming
    except (RuntimeError, distributed.DistError) as error:
        why = f"rank {rank} of {count} lost the ring: {error}"
        raise DeviceError(f"{' '.join(why.split())}; every rank must run, and call this once") from error
    return out


def _lengths(q: Array, block: list[Array], group: distributed.ProcessGroup | None) -> list[int]:
    """How many tokens each rank holds, after a look at whether blocks of one fit the others."""
    k, v, positions = block
    fit = [q.shape[0], q.shape[2], *k.shape[2:], v.shape[3], q.element_size()]
    mine = torch.tensor([len(positions), *fit], device=q.device)
    all_ = [torch.empty_like(mine) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(all_, mine, group=group)
    rows = [row.tolist() for row in all_]
    for rank, row in enumerate(rows):
        if row[1:] != rows[0][1:]:
            names = "batch, query heads, key heads, key size, value size, bytes a number"
            raise ConfigError(
                f"ranks of a ring must agree in {names}: rank {rank} has {row[1:]}, rank 0 {rows[0][1:]}"
            )
    return [row[0] for row in rows]


def _pass_on(
    block: list[Array], lengths: list[int], source: int, group: distributed.ProcessGroup | None
) -> tuple[list[distributed.Work], list[Array]]:
    """Sends the block of rank `source` on, and receives that of the rank before it."""
    rank, count = distributed.get_rank(group), distributed.get_world_size(group)
    size = lengths[(source - 1) % count]
    coming = [a.new_empty((size,) if a.ndim == 1 else (a.shape[0], size, *a.shape[2:])) for a in block]
    to, from_ = ((rank + by) % count for by in (1, -1))
    if group is not None:
        to, from_ = (distributed.get_global_rank(group, peer) for peer in (to, from_))
    moves = []
    if lengths[source]:
        moves += [distributed.P2POp(distributed.isend, a, to, group) for a in block]
    if size:
        moves += [distributed.P2POp(distributed.irecv, a, from_, group) for a in coming]
    return (distributed.batch_isend_irecv(moves) if moves else []), coming
