"""BigBird's blocks and T5's buckets in PyTorch, on longer texts than those that are drawn for each op."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.mirror import over_tensors
from helpers.tolerances import equal
from tfm.refimpl.ops.bias import relative_buckets
from tfm.refimpl.ops.bigbird import bigbird_attend


@pytest.mark.parametrize("random_blocks", [0, 1, 2])
@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_each_length_of_a_text(block_size: int, random_blocks: int) -> None:
    """In one batch: below, at and above the longest text that is seen whole, and with each cut of a block."""
    limit = (5 + 2 * random_blocks) * block_size
    lengths = np.array([0, 1, limit - 1, limit, *range(limit + 1, limit + 2 * block_size + 3)])
    rng, rows, time = np.random.default_rng(limit), len(lengths), lengths[-1] + 4
    q, k, v = (rng.standard_normal((rows, time, heads, 5)) for heads in (4, 2, 2))
    settings = {"block_size": block_size, "random_blocks": random_blocks}
    got = over_tensors(bigbird_attend)(*map(torch.from_numpy, (q, k, v, lengths)), **settings)
    equal(got.numpy(), bigbird_attend(q, k, v, lengths, **settings))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_buckets_up_to_the_farthest(bidirectional: bool) -> None:
    settings = {"buckets": 32, "max_distance": 40, "bidirectional": bidirectional}
    queries, keys = np.array([[0, 21, 49]]), np.arange(50)
    got = over_tensors(relative_buckets)(torch.from_numpy(queries), torch.from_numpy(keys), **settings)
    assert (got.numpy() == relative_buckets(queries, keys, **settings)).all()
