"""Mamba: a layer in the place of attention and mlp, with a memory of a few numbers for each channel.

The memory is that of `ops.selective_scan`, between a convolution and a gate (Gu & Dao 2023, §3.4, figure 3):

    x ──┬─ wi ── convolution over A + 1 tokens, SiLU ── u ─┬───────────────────────┬─ ⊙ skip ─┐
        │                                                  ├─ wb ── b, a key ──────┤          │
        │                                                  ├─ wc ── c, a query ────┤          │
        │                                                  └─ wdt_a ── wdt ── Δ ───┴─ scan ── + ── ⊙ ── wo
        └─ wz ── SiLU ─────────────────────────────────────────────────────────────────────────┘

with Δ = softplus(· + dt_bias), and rates A = −exp(a_log). Keys, queries and steps are made of the convolved
channels u, not of the layer's input as in Mamba 2: one map after the other. Each channel has a step of its
own, made through a vector of C numbers, which are few beside F. The layer takes the part of an mlp too: it is
wider than the model, and has a gate. It keeps F · K numbers and the convolution's last A inputs, for a text
of any length. Jamba (AI21 2024) normalizes what Δ, b and c are made of, so that it can be trained at scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

import numpy as np

from ..config import Attention, Mamba
from .activation import silu
from .dispatch import op
from .linear import linear
from .norm import rms_norm
from .quant import Blocks
from .selective_scan import selective_scan
from .short_conv import begun, causal_conv, last_inputs

if TYPE_CHECKING:
    from typing import Any as Array

    from jaxtyping import Float

    from ..axes import Index

__all__ = ["ChannelState", "MambaWeights", "mamba"]


class MambaWeights(TypedDict):
    """The leaves of a layer of F channels with a state of K numbers each.

    `wi` makes what is convolved, `wz` the gate of the output; `wdt_a` and `wdt` the steps through C numbers,
    `wb` and `wc` keys and queries. Norms of these may have weights.
    """

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
    """What a layer with a convolution and a state for each channel keeps of earlier tokens: the convolution's
    last A inputs, and the states.

    `lengths` [B] is set for a step whose rows are padded on the right: so many of its tokens are real.
    """

    tail: Float[Array, "B A F"]
    state: Float[Array, "B F K"]
    lengths: Index[Array, " B", "< T+1"] | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of both."""
        return self.tail.nbytes + self.state.nbytes

    def select(self, rows: Array) -> ChannelState:
        """The named rows in the named order."""
        return ChannelState(self.tail[rows], self.state[rows])

    def grow(self, capacity: int) -> ChannelState:
        """Itself: it has room for any number of tokens."""
        return self

    def floor(self, written: Array, *, settings: Attention) -> Array:
        """No row can be truncated, but to nothing: what has faded is gone."""
        return written


@op
def mamba(
    x: Float[Array, "B T D"],
    cache: ChannelState,
    past: Index[Array, " B", "< O+1"],
    weights: MambaWeights,
    *,
    settings: Mamba,
) -> tuple[Float[Array, "B T D"], ChannelState]:
    """The sublayer of the picture above, with `selective_scan` from the cache's state on.

        u = silu(causal_conv(x wi)),    y = (scan(u, Δ, A, b, c) + skip ⊙ u) ⊙ silu(x wz) · wo

    With the settings' `norms`, u wdt_a, b and c are RMSNorm's outputs, `weighted` or `bare`.

    Conventions: a row with no token before the call begins at zero, whatever its cache holds. Padding
    changes no state; what comes out at padding is unspecified. No bias stands in Δ but dt_bias.
    """
    tail, state = begun(cache.tail, past), begun(cache.state, past)
    inputs = linear(x, weights["wi"], weights.get("bi"))
    u = silu(causal_conv(inputs, weights["conv"], tail, weights.get("conv_bias")))
    made = [linear(u, weights[name]) for name in ("wdt_a", "wb", "wc")]
    if settings.norms is not None:
        norms = [weights.get("dt_norm"), weights.get("b_norm"), weights.get("c_norm")]
        made = [rms_norm(a, norm, eps=settings.eps) for a, norm in zip(made, norms, strict=True)]
    dt, b, c = made
    step = np.logaddexp(0, linear(dt, weights["wdt"]) + weights["dt_bias"])
    if cache.lengths is not None:
        step = np.where((np.arange(x.shape[1]) < cache.lengths[:, None])[:, :, None], step, 0)
    y, state = selective_scan(u, step, -np.exp(weights["a_log"]), b, c, state)
    y = (y + weights["skip"] * u) * silu(linear(x, weights["wz"], weights.get("bz")))
    last = ChannelState(last_inputs(tail, inputs, cache.lengths), state)
    return linear(y, weights["wo"], weights.get("bo")), last
