"""The stem that reads samples, and its positions, against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from helpers.float64 import randomize
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import Convolution, ConvPositions, MoonshineStem
from tfm.refimpl.ops.conv1d import conv1d
from tfm.refimpl.ops.moonshine_stem import moonshine_stem
from tfm.refimpl.ops.wave_stem import conv_positions, time_norm
from tfm.refimpl.params.tree import map_leaves

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(1, 4), st.integers(1, 3), st.sampled_from([1, 2, 3]), st.booleans())
def test_conv1d_is_torchs(seed: int, length: int, stride: int, groups: int, bias: bool):
    conv = randomize(torch.nn.Conv1d(2 * groups, 3 * groups, length, stride, groups=groups, bias=bias), seed)
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 9, 2 * groups)))
    expected = conv(x.mT).mT.detach().numpy()
    own = None if conv.bias is None else conv.bias.detach().numpy()
    equal(conv1d(x.numpy(), conv.weight.detach().numpy(), own, stride=stride, groups=groups), expected)


@given(seeds, st.integers(2, 7))
def test_wave_stem_is_torchs_group_norm(seed: int, time: int):
    norm = randomize(torch.nn.GroupNorm(5, 5, eps=0.1), seed)
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, time, 5)))
    leaves: Any = {name: value.detach().numpy() for name, value in norm.named_parameters()}
    equal(time_norm(x.numpy(), **leaves, eps=0.1), norm(x.mT).mT.detach().numpy())


@given(seeds, st.integers(0, 9))
def test_moonshine_stem_is_torchs(seed: int, more: int):
    """All of it; samples behind the last vector's are left out."""
    settings = MoonshineStem((Convolution(10, 5, 3), Convolution(7, 3, 2), Convolution(4, 2, 1)))
    channels, convs = 1, []
    for i, one in enumerate(settings.convolutions):
        convs.append(torch.nn.Conv1d(channels, one.width, one.length, one.stride, bias=i > 0))
        channels = one.width
    norm = torch.nn.GroupNorm(1, 10, eps=1e-5)
    randomize(torch.nn.ModuleList([*convs, norm]), seed)
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, settings.least(3) + more)))
    first, *others = convs
    y = norm(torch.tanh(first(x[:, None])))
    for conv in others:
        y = torch.nn.functional.gelu(conv(y))
    leaves: list[Any] = [
        {"kernel": conv.weight} | ({} if conv.bias is None else {"bias": conv.bias}) for conv in convs
    ]
    leaves[0]["norm"] = dict(norm.named_parameters())
    numbers: Any = map_leaves(lambda _, leaf: leaf.detach().numpy(), {"convolutions": leaves})
    equal(moonshine_stem(x.numpy(), numbers, settings=settings), y.mT.detach().numpy())


@given(seeds, st.integers(1, 6), st.sampled_from([1, 2]))
def test_wave_stem_is_torchs_convolution(seed: int, length: int, groups: int):
    """A convolution with padding, of which an even one loses its last output."""
    conv = randomize(torch.nn.Conv1d(4, 4, length, padding=length // 2, groups=groups), seed)
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 5, 4)))
    expected = torch.nn.functional.gelu(conv(x.mT)).mT[:, :5].detach().numpy()
    kernel, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    equal(conv_positions(x.numpy(), kernel, bias, settings=ConvPositions(length, groups, "gelu")), expected)
