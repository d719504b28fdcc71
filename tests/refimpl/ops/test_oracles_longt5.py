"""LongT5's attention against transformers', whose first layer makes the biases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.float64 import in_float64, randomize
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import Layer, Plain, RelativeBias, Stack
from tfm.refimpl.ops.longt5 import LongT5Attention, longt5_attention
from tfm.refimpl.ops.model import distance_biases
from transformers import LongT5Config
from transformers.models.longt5 import modeling_longt5 as theirs

H, K, D, T = 3, 5, 7, 12


@given(
    st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 14]), st.sampled_from([(8, 9), (32, 128)]), st.data()
)
@pytest.mark.parametrize("sums", [False, True])
def test_longt5_is_longt5s(sums: bool, seed: int, radius: int, buckets: tuple[int, int], data: Any):
    size = data.draw(st.sampled_from([1, 2, 3, 5, 16])) if sums else None
    config = LongT5Config(
        d_model=D, d_kv=K, num_heads=H, local_radius=radius, global_block_size=size or 16,
        relative_attention_num_buckets=buckets[0], relative_attention_max_distance=buckets[1],
        layer_norm_epsilon=1e-3,
    )  # fmt: skip
    kind = theirs.LongT5TransientGlobalAttention if sums else theirs.LongT5LocalAttention
    attention, rng = (
        randomize(kind(config, has_relative_attention_bias=True), seed),
        np.random.default_rng(seed),
    )
    x, lengths = rng.standard_normal((2, T, D)), np.array([T, rng.integers(1, T + 1)])
    real = np.arange(T) < lengths[:, None]
    mask = torch.from_numpy(real.astype(np.int64))
    if not sums:
        mask = theirs._get_local_attention_mask(mask, radius + 1, mask.device)
    expected = in_float64(attention, torch.from_numpy(x), mask=mask)[0].detach().numpy()
    leaves: Any = {f"w{n}": getattr(attention, n).weight.detach().numpy().T for n in "qkvo"}
    tables: Any = {"relative_bias": attention.relative_attention_bias.weight.detach().numpy()}
    if sums:
        leaves["global_norm"] = attention.global_input_layer_norm.weight.detach().numpy()
        tables["global_relative_bias"] = attention.global_relative_attention_bias.weight.detach().numpy()
    settings = LongT5Attention(H, K, radius, RelativeBias(*buckets), size, 1e-3)
    biases = distance_biases(tables, stack=Stack((Layer(settings, Plain(8, "relu")),), None))
    assert biases is not None
    got = longt5_attention(x, lengths, leaves, biases, settings=settings)
    equal(got[real], expected[real])
