"""Mamba 2: a layer whose memory is one matrix a head, which fades at a rate that each token chooses."""

from __future__ import annotations

import torch
from torch import Tensor

from ...refimpl.ops.activation import silu
from ...refimpl.ops.linear import linear
from ...refimpl.ops.mamba2 import Mamba2, Mamba2Weights
from ...refimpl.ops.norm import rms_norm
from ...refimpl.ops.short_conv import MatrixState, begun, causal_conv, last_inputs
from ...refimpl.ops.ssd import ssd_recurrent
from ..torch_bodies import torch_body
from .activation import softplus


@torch_body
def mamba2(
    x: Tensor, cache: MatrixState, past: Tensor, weights: Mamba2Weights, *, settings: Mamba2
) -> tuple[Tensor, MatrixState]:
    """Products, the convolution and the norm around the replaceable recurrence."""
    m = settings
    tail, state = begun(cache.tail, past), begun(cache.state, past)
    inputs = linear(x, weights["wi"], weights.get("bi"))
    step = linear(x, weights["wdt"], weights.get("bdt"))
    gate = linear(x, weights["wz"], weights.get("bz"))
    if m.multipliers:
        keys = m.groups * m.state_size
        factors = [m.multipliers[1]] * m.width + [m.multipliers[2]] * keys + [m.multipliers[3]] * keys
        inputs = inputs * torch.tensor(factors, dtype=inputs.dtype, device=inputs.device)
        gate, step = m.multipliers[0] * gate, m.multipliers[4] * step
    mixed = silu(causal_conv(inputs, weights["conv"], tail, weights.get("conv_bias")))
    keys = m.groups * m.state_size
    v, b, c = mixed.split([m.width, keys, keys], -1)
    v = v.unflatten(-1, (m.heads, m.head_size))
    b, c = (a.unflatten(-1, (m.groups, m.state_size)) for a in (b, c))
    step = softplus(step + weights["dt_bias"])
    if cache.lengths is None:
        lengths = torch.full_like(past, x.shape[1])
    else:
        lengths = cache.lengths
        step = step * (torch.arange(x.shape[1], device=past.device) < lengths[:, None]).unsqueeze(-1)
    decay = -torch.exp(weights["a_log"]) * step
    y, state = ssd_recurrent(v * step.unsqueeze(-1), decay, b, c, state)
    y = (y + weights["skip"].unsqueeze(-1) * v).flatten(-2)
    gate = silu(gate)
    if m.norm != "before_gate":
        y = y * gate
    if m.norm is not None:
        assert "norm" in weights
        y = rms_norm(y.unflatten(-1, (m.groups, -1)), eps=m.eps).flatten(-2) * weights["norm"]
    if m.norm == "before_gate":
        y = y * gate
    tail = last_inputs(tail, inputs, lengths)
    return linear(y, weights["wo"], weights.get("bo")), cache._replace(tail=tail, state=state, lengths=None)
