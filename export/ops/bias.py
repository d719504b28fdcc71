"""Implement biases of attention scores in PyTorch: ALiBi's and T5's, which depend on the distance between
query and key.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..torch_bodies import torch_body


@torch_body
def alibi_slopes(heads: Tensor, *, max_bias: float = 8.0) -> Tensor:
    """Return ALiBi's slope of each head: 2^(−max_bias · s / P), where P is the largest power of two up to H.
    The step s is 1, 2, 3, … for the first P heads, and 0.5, 1.5, 2.5, … for the other heads.
    """
    power = 1
    while 2 * power <= heads.shape[0]:
        power *= 2
    after = heads.double() - power
    steps = torch.where(after < 0, after + power + 1, after + 0.5)
    return torch.exp2(steps * (-max_bias / power))


@torch_body
def alibi_bias(slopes: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Return ALiBi's bias of each score: the head's slope times the negative distance of query and key. The
    negative distance is the smaller one of key − query and query − key.
    """
    ahead = keys - queries.unsqueeze(-1)
    nearer = torch.minimum(ahead, -ahead).to(slopes.dtype)
    return nearer.unsqueeze(1) * slopes.view(-1, 1, 1)


@torch_body
def relative_buckets(
    queries: Tensor, keys: Tensor, *, buckets: int, max_distance: int, bidirectional: bool
) -> Tensor:
    """Return the bucket of the distance between each query and each key. The bucket is looked up in a
    constant table, which contains the distances up to `max_distance`.
    """
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
    """Return the table's bias for each head and each score's bucket, as a Gather in ONNX."""
    return functional.embedding(bucket_ids, table).permute(0, 3, 1, 2)
