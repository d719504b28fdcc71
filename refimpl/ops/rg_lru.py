"""The real-gated linear recurrent unit: a layer in which each channel remembers one number.

For each token, one gate says how much of its number a channel keeps, and another gate says what it adds
(De et al. 2024, "Griffin: Mixing Gated Linear Recurrences with Local Attention", arXiv 2402.19427, §2.4;
RecurrentGemma 2024):

    x ──┬─ wi ── convolution over A + 1 tokens ── u ─┬─ w_decay ── σ ── r ──┐
        │                                            ├─ w_input ── σ ── i ──┤
        │                                            └──────────────────────┴─ h ── ⊙ ── wo ── y
        └─ wz ── activation ───────────────────────────────────────────────────────┘

    L_t = 8 r_t ⊙ softplus(forget)       a_t = exp(−L_t)
    h_t = a_t ⊙ h_{t−1} + √(1 − a_t²) ⊙ i_t ⊙ u_t

The root keeps the size of h: if inputs are independent with variance 1, h has variance 1 too. A text's
first token has no earlier h, and isn't multiplied by the root. Both gates read only the channels of their
own head, so there are H maps [K, K] instead of one map [H·K, H·K].

**As a state space.** The recurrence is the same as in `ops.ssd`, with a head for each channel. The keys,
queries and values of a head are single numbers, and its keys and queries are 1. A layer keeps H · K
numbers and the convolution's last A inputs, for a text of any length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypedDict

from ..config import Activation, TokenMixer
from ..config.record import bounded
from .activation import activation, precise_sigmoid, sigmoid, tanh
from .arrays import following, indices, join_last, softplus, split_last, sqrt, where, zeros_like
from .cache_kind import CacheArray, RecurrentState, same_state, state_nbytes, state_rows
from .dispatch import op
from .linear import linear
from .quant import Blocks
from .short_conv import begun, causal_conv, last_inputs
from .ssd import ssd_recurrent

if TYPE_CHECKING:
    from ..axes import Array, Float, Index

SPEED = 8.0  # c of the paper's equation 3


class RgLruWeights(TypedDict):
    """The parameters of a recurrent unit with H heads of K channels.

    `wi` makes the channels, and `wz` makes the output's gate. `w_input` and `w_decay` make the gates of
    the recurrence. `forget` is Λ of the paper."""

    wi: Float[Array, "D H*K"] | Blocks
    bi: Float[Array, " H*K"]
    wz: Float[Array, "D H*K"] | Blocks
    bz: Float[Array, " H*K"]
    conv: Float[Array, "A+1 H*K"]
    conv_bias: Float[Array, " H*K"]
    w_input: Float[Array, "H K K"]
    b_input: Float[Array, "H K"]
    w_decay: Float[Array, "H K K"]
    b_decay: Float[Array, "H K"]
    forget: Float[Array, " H*K"]
    wo: Float[Array, "H*K D"] | Blocks
    bo: Float[Array, " D"]


class RgLruState(NamedTuple):
    """The state of the recurrent unit: the convolution's last A inputs, and one number for each channel.

    `lengths` [B] is set only in a step with rows padded on the right. It says how many tokens of each row
    are real.
    """

    tail: Float[Array, "B A H*K"]
    state: Float[Array, "B H*K"]
    lengths: Index[Array, " B", "< T+1"] | None = None

    nbytes, select, grow = state_nbytes, state_rows, same_state


@dataclass(frozen=True)
class RgLruStates(RecurrentState):
    """The kind of cache of the recurrent unit: the convolution's last `count` inputs, and one number for
    each of its `channels`.
    """

    holds = RgLruState

    count: int
    channels: int

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        state = CacheArray("state", ("batch", self.channels))
        return CacheArray("conv", ("batch", self.count, self.channels)), state


class RgLru(TokenMixer):
    """The settings of a real-gated linear recurrent unit with `heads` heads of `head_size` channels
    (`ops.rg_lru`).

    A convolution lets each channel see the `length` latest tokens. `activation` belongs to the output's
    gate.
    """

    heads: int = bounded("heads")
    head_size: int = bounded("width")
    length: int = bounded("kernel", "length of the convolution", least=2, default=4)
    activation: Activation = "gelu_tanh"

    weights = RgLruWeights
    title, place, keeps, in_parts = "a linear recurrent unit", "decoder", "state", True
    choices: ClassVar = {"activation": ("gelu_tanh", "silu")}
    gates = "wi", "wz"
    largest: ClassVar = {"forget": 4}

    def sizes(self, width: int) -> Mapping[str, float]:
        return {"H": self.heads, "K": self.head_size, "A": self.length - 1}

    def cache_kind(self) -> RgLruStates:
        return RgLruStates(self.length - 1, self.heads * self.head_size)

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, RgLruState, Array | None]:
        return *rg_lru(x, cache, past, weights, settings=self), chosen

    def readers(self) -> tuple[str, ...]:
        return "wi", "wz"

    def describe(self) -> str:
        units = f"{self.heads} heads of {self.head_size} recurrent units"
        return f"{units}, convolution over {self.length} tokens"

    def numbers(self) -> Iterator[float]:
        yield SPEED

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> RgLru:
        return cls(size["H"], size["K"], size["A"] + 1, chosen["activation"])


@op
def rg_lru(
    x: Float[Array, "B T D"],
    cache: RgLruState,
    past: Index[Array, " B", "< O+1"],
    weights: RgLruWeights,
    *,
    settings: RgLru,
) -> tuple[Float[Array, "B T D"], RgLruState]:
    """Compute the token mixing of a real-gated linear recurrent unit: projections, a causal convolution, the
    recurrence, a gate, and the output projection. `ssd_recurrent` continues from the cache's state.

    1 − a² is computed as 2 tanh(L) / (1 + tanh(L)), which has all digits right even if a is near 1. A
    direct difference would have few right digits, and so would its root. For the same reason r is a
    `precise_sigmoid`.

    Conventions: a row with no token before the call begins at zero, whatever its cache contains. Padding
    changes no state; outputs at padding are unspecified. Only position 0 counts as a text's first token.
    """
    tail, state = begun(cache.tail, past), begun(cache.state, past)
    inputs = linear(x, weights["wi"], weights["bi"])
    u = causal_conv(inputs, weights["conv"], tail, weights["conv_bias"])
    read = sigmoid(each_head(u, weights["w_input"], weights["b_input"]))
    lost = precise_sigmoid(each_head(u, weights["w_decay"], weights["b_decay"]))
    loss = SPEED * lost * softplus(weights["forget"])
    fading = tanh(loss)
    first = (following(past, x.shape[1]) == 0)[..., None]
    added = where(first, 1.0, sqrt(2 * fading / (1 + fading))) * (read * u)
    if cache.lengths is not None:
        real = (indices(x.shape[1], past) < cache.lengths[:, None])[..., None]
        loss, added = loss * real, added * real
    one = zeros_like(x[..., :1, None]) + 1
    h, state = ssd_recurrent(added[..., None], -loss, one, one, state[..., None, None])
    gate = activation(linear(x, weights["wz"], weights["bz"]), kind=settings.activation)
    last = RgLruState(last_inputs(tail, inputs, cache.lengths), state[..., 0, 0])
    return linear(h[..., 0] * gate, weights["wo"], weights["bo"]), last


def each_head(u: Array, weight: Array, bias: Array) -> Array:
    """Multiply the channels [B, T, H·K] of each head by the head's own matrix, one of [H, K, K]. Returns
    [B, T, H·K].
    """
    heads = split_last(u, weight.shape[-1]).swapaxes(1, 2)
    return join_last((heads @ weight).swapaxes(1, 2) + bias)
