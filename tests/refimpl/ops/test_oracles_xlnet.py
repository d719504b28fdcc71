"""XLNet's attention against transformers', whose sublayer adds its input and normalizes the sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.float64 import in_float64, randomize
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.ops.norm import layer_norm
from tfm.refimpl.ops.xlnet import XLNetAttention, xlnet_attention
from transformers import XLNetConfig, XLNetModel

H, K, T = 3, 4, 7
D = H * K


@given(st.integers(0, 2**32 - 1), st.sampled_from([-1, 0, 2, 20]))
@pytest.mark.parametrize(("typed", "compares"), [(False, True), (True, True), (True, False)])
def test_xlnet_is_xlnets(typed: bool, compares: bool, seed: int, clamp: int):
    config = XLNetConfig(
        vocab_size=5, d_model=D, n_head=H, d_inner=5, n_layer=1, clamp_len=clamp, layer_norm_eps=1e-3
    )
    model: Any = randomize(XLNetModel(config), seed)
    rng = np.random.default_rng(seed)
    attention = model.layer[0].rel_attn
    x, lengths = rng.standard_normal((2, T, D)), np.array([T, rng.integers(1, T + 1)])
    types = rng.integers(0, 3, (2, T)) if typed else None
    real = np.arange(T) < lengths[:, None]
    segments = None
    if types is not None and compares:
        apart = torch.from_numpy(types.T[:, None] != types.T[None]).long()
        segments = torch.nn.functional.one_hot(apart, 2).double()
    hidden = torch.from_numpy(~real).double().T[None, :, :, None].expand(T, -1, -1, -1)
    hidden = ((hidden - torch.eye(T, dtype=torch.float64)[:, :, None, None]) > 0).double()
    r = in_float64(model.relative_positional_encoding, T, T, bsz=2)
    expected = in_float64(
        attention, torch.from_numpy(x.swapaxes(0, 1).copy()), None, hidden, None, r, segments
    )[0].numpy().swapaxes(0, 1)  # fmt: skip
    leaf = lambda name: getattr(attention, name).detach().numpy()  # noqa: E731
    leaves: Any = {f"w{n}": leaf(n).reshape(D, D) for n in "qkv"}
    leaves |= {"wo": leaf("o").reshape(D, D).T, "wk_pos": leaf("r").reshape(D, D)}
    names = {"content_bias": "r_w_bias", "position_bias": "r_r_bias", "segment_bias": "r_s_bias"}
    leaves |= {ours: leaf(name).reshape(-1) for ours, name in names.items()}
    leaves["segments"] = leaf("seg_embed").reshape(2, -1)
    settings = XLNetAttention(H, K, clamp if clamp > 0 else None, compares)
    got = x + xlnet_attention(x, lengths, leaves, types, settings=settings)
    norm = attention.layer_norm
    got = layer_norm(got, norm.weight.detach().numpy(), norm.bias.detach().numpy(), eps=1e-3)
    equal(got[real], expected[real])
