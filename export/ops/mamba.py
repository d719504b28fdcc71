"""Mamba: a layer in the place of attention and mlp, with a memory of a few numbers for each channel."""

from __future__ import annotations

import torch
from torch import Tensor

from ...refimpl.ops.activation import silu
from ...refimpl.ops.linear import linear
from ...refimpl.ops.mamba import ChannelState, Mamba, MambaWeights
from ...refimpl.ops.norm import rms_norm
from ...refimpl.ops.selective_scan import selective_scan
from ...refimpl.ops.short_conv import begun, causal_conv, last_inputs
from ..torch_bodies import torch_body
from .activation import softplus


@torch_body
def mamba(
    x: Tensor, cache: ChannelState, past: Tensor, weights: MambaWeights, *, settings: Mamba
) -> tuple[Tensor, ChannelState]:
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
