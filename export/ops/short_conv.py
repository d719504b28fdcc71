"""Short convolutions: each token's channels are mixed with those of few tokens before it, between gates."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

import torch

from .linear import linear
from .quant import Blocks

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = ["ConvState", "MatrixState", "ShortConvWeights", "causal_conv", "short_conv"]


class ShortConvWeights(TypedDict):
    """The leaves of a short convolution: the maps in and out, the kernel, and their biases."""

    wi: Float[Array, "D 3*F"] | Blocks
    conv: Float[Array, "A+1 F"]
    wo: Float[Array, "F D"] | Blocks
    bi: NotRequired[Float[Array, " 3*F"]]
    conv_bias: NotRequired[Float[Array, " F"]]
    bo: NotRequired[Float[Array, " D"]]


class ConvState(NamedTuple):
    """The last A inputs; `lengths` says how many of a step's tokens are real."""

    tail: Float[Array, "B A F"]
    lengths: Index[Array, " B", "< T+1"] | None = None


class MatrixState(NamedTuple):
    """The last A inputs and the matrices; `lengths` says how many of a step's tokens are real."""

    tail: Float[Array, "B A 2*G*K+H*V"]
    state: Float[Array, "B H K V"]
    lengths: Index[Array, " B", "< T+1"] | None = None


def causal_conv(
    x: Float[Array, "B T F"],
    kernel: Float[Array, "A+1 F"],
    tail: Float[Array, "B A F"] | None = None,
    bias: Float[Array, " F"] | None = None,
) -> Float[Array, "B T F"]:
    """A product and a sum for each row of the kernel, which has few."""
    before = x.new_zeros(x.shape[0], kernel.shape[0] - 1, x.shape[2]) if tail is None else tail
    inputs, tokens = torch.cat((before, x), 1), x.shape[1]
    y = inputs[:, :tokens] * kernel[0]
    for j in range(1, kernel.shape[0]):
        y = y + inputs[:, j : j + tokens] * kernel[j]
    return y if bias is None else y + bias


def short_conv(
    x: Float[Array, "B T D"],
    cache: ConvState,
    past: Index[Array, " B", "< O+1"],
    weights: ShortConvWeights,
) -> tuple[Float[Array, "B T D"], ConvState]:
    """Two products around the convolution; the new tail is gathered row by row."""
    b, c, v = linear(x, weights["wi"], weights.get("bi")).chunk(3, -1)
    inputs = b * v
    tail = begun(cache.tail, past)
    y = c * causal_conv(inputs, weights["conv"], tail, weights.get("conv_bias"))
    lengths = torch.full_like(past, x.shape[1]) if cache.lengths is None else cache.lengths
    tail = last_inputs(tail, inputs, lengths)
    return linear(y, weights["wo"], weights.get("bo")), cache._replace(tail=tail, lengths=None)


def last_inputs(tail: Array, inputs: Array, lengths: Array) -> Array:
    """The last of the tail and of the first `lengths` inputs, gathered row by row."""
    latest = lengths[:, None] + torch.arange(tail.shape[1], device=lengths.device)
    return torch.cat((tail, inputs), 1).gather(1, latest.unsqueeze(2).expand(-1, -1, tail.shape[2]))


def begun(kept: Array, past: Array) -> Array:
    """What a cache holds, zeros in rows with no token before the call."""
    return torch.where((past > 0).view(-1, *(1,) * (kept.ndim - 1)), kept, 0)
