"""BigBird's attention in PyTorch on texts of many blocks, longer than those that are drawn for each op."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.mirror import over_tensors
from helpers.tolerances import equal
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
