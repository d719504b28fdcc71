"""Mamba: a layer in the place of attention and mlp, with a memory of a few numbers for each channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

import torch

from ...refimpl.config import Mamba
from .activation import silu, softplus
from .linear import linear
from .norm import rms_norm
from .quant import Blocks
from .selective_scan import selective_scan
from .short_conv import begun, causal_conv, last_inputs

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = ["ChannelState", "MambaWeights", "mamba"]


class MambaWeights(TypedDict):
    """The leaves of a layer of F channels with a state of K numbers each."""

    wi: Float[Array, "D F"] | Blocks
    conv: Float[Array, "A+1 F"]
    wz: Float[Array, "D F"] | Blocks
    wdt_a: Float[Array, "F C"]
    wdt: Float[Array, "C F"]
    wb: Float[Array, "F K"]
    wc: Float[Array, "F K"]
    a_log: Float[Array, "F K"]
    dt_bias: Float[Array, " F"]
    skip: Float[Array, " F"]
    wo: Float[Array, "F D"] | Blocks
    dt_norm: NotRequired[Float[Array, " C"]]
    b_norm: NotRequired[Float[Array, " K"]]
    c_norm: NotRequired[Float[Array, " K"]]
    conv_bias: NotRequired[Float[Array, " F"]]
    bi: NotRequired[Float[Array, " F"]]
    bz: NotRequired[Float[Array, " F"]]
    bo: NotRequired[Float[Array, " D"]]


class ChannelState(NamedTuple):
    """The last A inputs and the states; `lengths` says how many of a step's tokens are real."""

    tail: Float[Array, "B A F"]
    state: Float[Array, "B F K"]
    lengths: Index[Array, " B", "< T+1"] | None = None


def mamba(
    x: Float[Array, "B T D"],
    cache: ChannelState,
    past: Index[Array, " B", "< O+1"],
    weights: MambaWeights,
    *,
    settings: Mamba,
) -> tuple[Float[Array, "B T D"], ChannelState]:
    """Products, the convolution and norms around the replaceable scan."""
    tail, state = begun(cache.tail, past), begun(cache.state, past)
    inputs = linear(x, weights["wi"], weights.get("bi"))
    u = silu(causal_conv(inputs, weights["conv"], tail, weights.get("conv_bias")))
    dt, b, c = (linear(u, weights[name]) for name in ("wdt_a", "wb", "wc"))
    if settings.norms is not None:
        dt = rms_norm(dt, weights.get("dt_norm"), eps=settings.eps)
        b = rms_norm(b, weights.get("b_norm"), eps=settings.eps)
        c = rms_norm(c, weights.get("c_norm"), eps=settings.eps)
    step = softplus(linear(dt, weights["wdt"]) + weights["dt_bias"])
    if cache.lengths is None:
        lengths = torch.full_like(past, x.shape[1])
    else:
        lengths = cache.lengths
        step = step * (torch.arange(x.shape[1], device=past.device) < lengths[:, None]).unsqueeze(-1)
    y, state = selective_scan(u, step, -torch.exp(weights["a_log"]), b, c, state)
    y = (y + weights["skip"] * u) * silu(linear(x, weights["wz"], weights.get("bz")))
    tail = last_inputs(tail, inputs, lengths)
    return linear(y, weights["wo"], weights.get("bo")), cache._replace(tail=tail, state=state, lengths=None)
