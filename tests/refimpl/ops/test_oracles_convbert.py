"""ConvBERT's attention against transformers'."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from helpers.float64 import in_float64, randomize
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.ops.convbert import ConvBertAttention, convbert_attention
from transformers import ConvBertConfig
from transformers.models.convbert import modeling_convbert as theirs

NAMES = {"q": "query", "k": "key", "v": "value", "_kernel": "conv_kernel_layer", "_near": "conv_out_layer"}


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]), st.sampled_from([1, 2, 6]))
def test_convbert_is_transformers(seed: int, heads: int, neighbours: int):
    """Rows one by one: in a batch transformers' convolutions read the padding."""
    config = ConvBertConfig(
        hidden_size=10 * heads, num_attention_heads=2 * heads, conv_kernel_size=2 * neighbours + 1
    )
    sublayer, rng = randomize(theirs.ConvBertAttention(config), seed), np.random.default_rng(seed)
    x, lengths = rng.standard_normal((2, 7, 10 * heads)), np.array([7, rng.integers(1, 8)])
    inner, out = sublayer.self, sublayer.output.dense

    def numbers(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().numpy()

    leaves: Any = {"wo": numbers(out.weight).T, "bo": numbers(out.bias)}
    for name, layer in NAMES.items():
        leaves |= {f"w{name}": numbers(getattr(inner, layer).weight).T}
        leaves |= {f"b{name}": numbers(getattr(inner, layer).bias)}
    around = inner.key_conv_attn_layer
    leaves |= {"conv": numbers(around.depthwise.weight)[:, 0].T, "b_conv": numbers(around.bias)[:, 0]}
    leaves |= {"w_conv": numbers(around.pointwise.weight)[:, :, 0].T}
    got = convbert_attention(x, lengths, leaves, settings=ConvBertAttention(heads, 5, neighbours))
    for row, length in enumerate(lengths):
        alone = torch.from_numpy(x[row : row + 1, :length])
        want = in_float64(lambda text: out(inner(text)[0]), alone)
        equal(got[row, :length], numbers(want)[0])
