"""Mamba 2: a layer whose memory is one matrix a head, which fades at a rate that each token chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

import torch

from ...refimpl.config import Mamba2
from .activation import silu, softplus
from .cache import KVCache
from .linear import linear
from .norm import rms_norm
from .quant import Blocks
from .short_conv import MatrixState, begun, causal_conv, last_inputs
from .ssd import ssd_recurrent

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = ["HybridCache", "Mamba2Weights", "mamba2"]


class Mamba2Weights(TypedDict):
    """The leaves of a layer of H heads with values, and G groups of keys and queries."""

    wi: Float[Array, "D 2*G*K+H*V"] | Blocks
    conv: Float[Array, "A+1 2*G*K+H*V"]
    wz: Float[Array, "D H*V"] | Blocks
    wdt: Float[Array, "D H"]
    a_log: Float[Array, " H"]
    dt_bias: Float[Array, " H"]
    skip: Float[Array, " H"]
    wo: Float[Array, "H*V D"] | Blocks
    norm: NotRequired[Float[Array, " H*V"]]
    conv_bias: NotRequired[Float[Array, " 2*G*K+H*V"]]
    bi: NotRequired[Float[Array, " 2*G*K+H*V"]]
    bz: NotRequired[Float[Array, " H*V"]]
    bdt: NotRequired[Float[Array, " H"]]
    bo: NotRequired[Float[Array, " D"]]


class HybridCache(NamedTuple):
    """The arrays of both mixers of a layer; `lengths` says how many of a step's tokens are real."""

    keys: Float[Array, "B G L K"]
    values: Float[Array, "B G L K"]
    tail: Float[Array, "B A F"]
    state: Float[Array, "B H U V"]
    lengths: Index[Array, " B", "< T+1"] | None = None

    @property
    def attention(self) -> KVCache:
        """The attention's part."""
        return KVCache(self.keys, self.values)

    @property
    def states(self) -> MatrixState:
        """The state space's part."""
        return MatrixState(self.tail, self.state, self.lengths)

    @property
    def capacity(self) -> int:
        """The tokens of a row for which there is room."""
        return self.attention.capacity


def mamba2(
    x: Float[Array, "B T D"],
    cache: MatrixState,
    past: Index[Array, " B", "< O+1"],
    weights: Mamba2Weights,
    *,
    settings: Mamba2,
) -> tuple[Float[Array, "B T D"], MatrixState]:
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
