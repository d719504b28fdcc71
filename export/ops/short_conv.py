"""Short convolutions: each token's channels are mixed with those of few tokens before it, between gates."""

from __future__ import annotations

import torch
from torch import Tensor

from ...refimpl.ops.linear import linear
from ...refimpl.ops.short_conv import ConvState, ShortConvWeights
from ..torch_bodies import torch_body


@torch_body
def causal_conv(x: Tensor, kernel: Tensor, tail: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """A product and a sum for each row of the kernel, which has few."""
    before = x.new_zeros(x.shape[0], kernel.shape[0] - 1, x.shape[2]) if tail is None else tail
    inputs, tokens = torch.cat((before, x), 1), x.shape[1]
    y = inputs[:, :tokens] * kernel[0]
    for j in range(1, kernel.shape[0]):
        y = y + inputs[:, j : j + tokens] * kernel[j]
    return y if bias is None else y + bias


@torch_body
def short_conv(
    x: Tensor, cache: ConvState, past: Tensor, weights: ShortConvWeights
) -> tuple[Tensor, ConvState]:
    """Two products around the convolution; the new tail is gathered row by row."""
    b, c, v = linear(x, weights["wi"], weights.get("bi")).chunk(3, -1)
    inputs = b * v
    tail = begun(cache.tail, past)
    y = c * causal_conv(inputs, weights["conv"], tail, weights.get("conv_bias"))
    tail = last_inputs(tail, inputs, cache.lengths)
    return linear(y, weights["wo"], weights.get("bo")), cache._replace(tail=tail, lengths=None)


@torch_body
def last_inputs(tail: Tensor, inputs: Tensor, lengths: Tensor | None) -> Tensor:
    """The last of the tail and of the first `lengths` inputs, gathered row by row."""
    every = torch.full((inputs.shape[0],), inputs.shape[1], device=inputs.device)
    count = every if lengths is None else lengths
    latest = count[:, None] + torch.arange(tail.shape[1], device=count.device)
    return torch.cat((tail, inputs), 1).gather(1, latest.unsqueeze(2).expand(-1, -1, tail.shape[2]))


@torch_body
def begun(kept: Tensor, past: Tensor) -> Tensor:
    """What a cache holds, zeros in rows with no token before the call."""
    return torch.where((past > 0).view(-1, *(1,) * (kept.ndim - 1)), kept, 0)
