"""Biases of scores that depend on the distance between query and key: ALiBi and T5's."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..torch_bodies import torch_body


@torch_body
def alibi_slopes(heads: Tensor, *, max_bias: float = 8.0) -> Tensor:
    """Compute powers of two: integer steps for the first heads, half steps for the others."""
    power = 1
    while 2 * power <= heads.shape[0]:
        power *= 2
    after = heads.double() - power
    steps = torch.where(after < 0, after + power + 1, after + 0.5)
    return torch.exp2(steps * (-max_bias / power))


@torch_body
def alibi_bias(slopes: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Multiply the slopes by the negative distance, which is the smaller of the two differences of the
    positions.
    """
    ahead = keys - queries.unsqueeze(-1)
    nearer = torch.minimum(ahead, -ahead).to(slopes.dtype)
    return nearer.unsqueeze(1) * slopes.view(-1, 1, 1)


@torch_body
def relative_buckets(
    queries: Tensor, keys: Tensor, *, buckets: int, max_distance: int, bidirectional: bool
) -> Tensor:
    """Look up the bucket of each distance in a constant table, which goes up to the largest distance."""
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
def relative_bias(bucket_ids: Tensor, table: Tensor) -> Tensor:
    """Exported to ONNX as Gather."""
    return functional.embedding(bucket_ids, table).permute(0, 3, 1, 2)
