"""Gated delta networks: a layer whose memory is one matrix a head, written, corrected and forgotten."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...refimpl.ops.activation import silu
from ...refimpl.ops.delta import gated_delta_rule
from ...refimpl.ops.gated_delta import UNIT_EPS, GatedDelta, GatedDeltaWeights
from ...refimpl.ops.linear import linear
from ...refimpl.ops.norm import rms_norm
from ...refimpl.ops.short_conv import MatrixState, begun, causal_conv, last_inputs
from ..torch_bodies import torch_body
from .activation import softplus


@torch_body
def gated_delta(
    x: Tensor, cache: MatrixState, past: Tensor, weights: GatedDeltaWeights, *, settings: GatedDelta
) -> tuple[Tensor, MatrixState]:
    """Products, the convolution and norms around the replaceable rule."""
    a = settings
    tail, state = begun(cache.tail, past), begun(cache.state, past)
    inputs = linear(x, weights["wi"])
    mixed = silu(causal_conv(inputs, weights["conv"], tail))
    width = a.key_heads * a.key_size
    q, k, v = mixed.split([width, width, a.heads * a.value_size], -1)
    q, k = _unit_heads(q, settings=a), _unit_heads(k, settings=a)
    rate, gate = softplus(_through(x, weights, "wa") + weights["dt_bias"]), _through(x, weights, "wz")
    beta = torch.sigmoid(linear(x, weights["wb"]))
    if a.allow_neg_eigval:
        beta = 2 * beta
    if cache.lengths is None:
        lengths = torch.full_like(past, x.shape[1])
    else:
        lengths = cache.lengths
        real = (torch.arange(x.shape[1], device=past.device) < lengths[:, None]).unsqueeze(-1)
        rate, beta = rate * real, beta * real
    rates = -torch.exp(weights["a_log"])
    if a.rank is None:
        decay = rates * rate
    else:
        decay = rates.unsqueeze(-1) * rate.unflatten(-1, (a.heads, a.key_size))
    y, state = gated_delta_rule(q, k, v.unflatten(-1, (a.heads, a.value_size)), state, decay, beta)
    gate = silu(gate) if a.rank is None else torch.sigmoid(gate)
    y = rms_norm(y, weights["norm"], eps=a.eps).flatten(-2) * gate
    tail = last_inputs(tail, inputs, lengths)
    return linear(y, weights["wo"]), cache._replace(tail=tail, state=state, lengths=None)


def _through(x: Tensor, weights: GatedDeltaWeights, name: Literal["wa", "wz"]) -> Tensor:
    """A product with a weight, or two where there is another one before it."""
    first = weights.get(f"{name}_a")
    return linear(x if first is None else linear(x, first), weights[name])


def _unit_heads(y: Tensor, *, settings: GatedDelta) -> Tensor:
    """The last axis as heads of length 1, each as often as values share it."""
    a = settings
    y = y.unflatten(-1, (a.key_heads, a.key_size))
    y = y * torch.rsqrt((y * y).sum(-1, keepdim=True) + UNIT_EPS)
    return y.repeat_interleave(a.heads // a.key_heads, dim=2)
