"""Biases of scores that depend on the distance between query and key: ALiBi and T5's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor as Array

    from ...refimpl.axes import Index


@torch_body
def alibi_slopes(heads: Int[Array, " H"], *, max_bias: float = 8.0) -> Float[Array, " H"]:
    """Powers of two: integer steps for the first heads, half steps for the others."""
    power = 1
    while 2 * power <= heads.shape[0]:
        power *= 2
    after = heads.double() - power
    steps = torch.where(after < 0, after + power + 1, after + 0.5)
    return torch.exp2(steps * (-max_bias / power))


@torch_body
def alibi_bias(
    slopes: Float[Array, " H"],
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
) -> Float[Array, "B H T S"]:
    """Slopes times the negative distance, the smaller of the two differences."""
    ahead = keys - queries.unsqueeze(-1)
    nearer = torch.minimum(ahead, -ahead).to(slopes.dtype)
    return nearer.unsqueeze(1) * slopes.view(-1, 1, 1)


@torch_body
def relative_buckets(
    queries: Int[Array, "B T"],
    keys: Int[Array, " S"],
    *,
    buckets: int,
    max_distance: int,
    bidirectional: bool,
) -> Index[Array, "B T S", "< W"]:
    """A lookup in a constant table with the bucket of each distance up to the largest."""
    count = buckets // 2 if bidirectional else buckets
    exact = count // 2

    def bucket(distance: int) -> int:
        if distance < exact:
            return distance
        share = math.log(distance / exact) / math.log(max_distance / exact)
        return min(exact + int(share * (count - exact)), count - 1)

    table = torch.tensor([bucket(d) for d in range(max_distance + 1)])
    ahead = keys - queries.unsqueeze(-1)
    distance = ahead.abs() if bidirectional else (-ahead).clamp(min=0)
    bucket_ids = table[distance.clamp(max=max_distance)]
    return bucket_ids + (ahead > 0) * count if bidirectional else bucket_ids


@torch_body
def relative_bias(
    bucket_ids: Index[Array, "B T S", "< W"],
    table: Float[Array, "W H"],
) -> Float[Array, "B H T S"]:
    """Gather."""
    return functional.embedding(bucket_ids, table).permute(0, 3, 1, 2)
