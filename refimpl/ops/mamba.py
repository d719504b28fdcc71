"""Mamba: a layer that replaces attention and mlp, with a memory of a few numbers for each channel.

The memory is the state of `ops.selective_scan`, between a convolution and a gate (Gu & Dao 2023, §3.4,
figure 3):

    x ──┬─ wi ── convolution over A + 1 tokens, SiLU ── u ─┬───────────────────────┬─ ⊙ skip ─┐
        │                                                  ├─ wb ── b, a key ──────┤          │
        │                                                  ├─ wc ── c, a query ────┤          │
        │                                                  └─ wdt_a ── wdt ── Δ ───┴─ scan ── + ── ⊙ ── wo
        └─ wz ── SiLU ─────────────────────────────────────────────────────────────────────────┘

with Δ = softplus(· + dt_bias), and rates A = −exp(a_log). Keys, queries and steps are made from the
convolved channels u, so their maps come after `wi`. (In Mamba 2, they are made from the layer's input.)
Each channel has its own step, made through a vector of C numbers; C is small compared with F. The layer
also does the work of an mlp: it is wider than the model, and has a gate. For a text of any length, the
layer stores only F · K numbers and the convolution's last A inputs. Jamba (AI21 2024) normalizes the
inputs of Δ, b and c, so that it can be trained at scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, NotRequired, TypedDict

from ..config import TokenMixer
from ..config.record import bounded
from .activation import silu
from .arrays import exp, indices, softplus
from .cache_kind import CacheArray, RecurrentState, same_state, state_nbytes, state_rows
from .dispatch import op
from .linear import linear
from .norm import rms_norm
from .quant import Blocks
from .selective_scan import selective_scan
from .short_conv import begun, causal_conv, last_inputs

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class MambaWeights(TypedDict):
    """The parameters of a Mamba layer of F channels with a state of K numbers each.

    `wi` makes the input of the convolution, and `wz` makes the gate of the output. `wdt_a` and `wdt` make
    the steps through C numbers. `wb` makes keys and `wc` makes queries. The norms of keys, queries and
    steps may have weights.
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
    """The state of a layer with a convolution and a state for each channel. It consists of the
    convolution's last A inputs, and of the channels' states.

    `lengths` [B] is set only in a step with rows padded on the right. It says how many tokens of each row
    are real.
    """

    tail: Float[Array, "B A F"]
    state: Float[Array, "B F K"]
    lengths: Index[Array, " B", "< T+1"] | None = None

    nbytes, select, grow = state_nbytes, state_rows, same_state


@dataclass(frozen=True)
class ChannelStates(RecurrentState):
    """The kind of cache of Mamba: the last `count` inputs of a convolution over `channels`, and a state of
    each channel."""

    holds = ChannelState

    count: int
    channels: int
    state_size: int

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        state = CacheArray("state", ("batch", self.channels, self.state_size))
        return CacheArray("conv", ("batch", self.count, self.channels)), state


class Mamba(TokenMixer):
    """The settings of Mamba's layer, which has a state of `state_size` numbers for each of `width`
    channels (`ops.mamba`).

    A convolution lets each channel see the `length` latest tokens. `conv_bias` says whether the
    convolution has a bias. Steps are made through `rank` numbers. `bias` says whether the input and output
    maps have biases. `norms` says whether the inputs of steps, keys and queries are normalized, and
    whether the norms have weights (Jamba, Falcon Mamba).
    """

    width: int = bounded("width", "width of the channels")
    state_size: int = bounded("width")
    rank: int = bounded("width", "rank of the steps")
    length: int = bounded("kernel", "length of the convolution", least=2, default=4)
    conv_bias: bool = True
    bias: bool = False
    norms: Literal["weighted", "bare"] | None = None
    eps: float = 1e-6

    weights = MambaWeights
    title, place, keeps, in_parts = "Mamba's layer", "decoder", "state", True
    choices: ClassVar = {"eps": (1e-6, 0.1), "bare_norm": (False, True)}
    together: ClassVar = {"b_norm": "dt_norm", "c_norm": "dt_norm"}
    gates = "wi", "wz"
    largest: ClassVar = {"a_log": 4}  # decays are between 0.02 and 55 a token

    def sizes(self, width: int) -> Mapping[str, float]:
        return {"F": self.width, "A": self.length - 1, "C": self.rank, "K": self.state_size}

    def leaves(self) -> Sequence[str]:
        norms = ("dt_norm", "b_norm", "c_norm") if self.norms == "weighted" else ()
        biases = ("bi", "bz", "bo") if self.bias else ()
        return *norms, *(("conv_bias",) if self.conv_bias else ()), *biases

    def cache_kind(self) -> ChannelStates:
        return ChannelStates(self.length - 1, self.width, self.state_size)

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, ChannelState, Array | None]:
        return *mamba(x, cache, past, weights, settings=self), chosen

    def readers(self) -> tuple[str, ...]:
        return "wi", "wz"

    def describe(self) -> str:
        states = f"{self.width} states of {self.state_size}"
        return f"Mamba, {states}, convolution over {self.length} tokens"

    def epsilons(self) -> dict[str, float]:
        return dict.fromkeys(("dt_norm", "b_norm", "c_norm"), self.eps)

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> Mamba:
        norms = "weighted" if chosen["dt_norm"] is not None else "bare" if chosen["bare_norm"] else None
        return cls(size["F"], size["K"], size["C"], size["A"] + 1, norms=norms, eps=chosen["eps"])


@op
def mamba(
    x: Float[Array, "B T D"],
    cache: ChannelState,
    past: Index[Array, " B", "< O+1"],
    weights: MambaWeights,
    *,
    settings: Mamba,
) -> tuple[Float[Array, "B T D"], ChannelState]:
    """Compute Mamba's token mixing: projections, a causal convolution, a selective scan, a gate, and the
    output projection. `selective_scan` continues from the cache's state.

        u = silu(causal_conv(x wi)),    y = (scan(u, Δ, A, b, c) + skip ⊙ u) ⊙ silu(x wz) · wo

    With the settings' `norms`, u wdt_a, b and c are normalized by RMSNorm: `weighted` or `bare` says
    whether the norms have weights.

    Conventions: a row with no token before the call begins at zero, whatever its cache contains. Padding
    changes no state; outputs at padding are unspecified. Δ has no bias except dt_bias.
    """
    tail, state = begun(cache.tail, past), begun(cache.state, past)
    inputs = linear(x, weights["wi"], weights.get("bi"))
    u = silu(causal_conv(inputs, weights["conv"], tail, weights.get("conv_bias")))
    dt, b, c = (linear(u, weights[name]) for name in ("wdt_a", "wb", "wc"))
    if settings.norms is not None:
        dt = rms_norm(dt, weights.get("dt_norm"), eps=settings.eps)
        b = rms_norm(b, weights.get("b_norm"), eps=settings.eps)
        c = rms_norm(c, weights.get("c_norm"), eps=settings.eps)
    step = softplus(linear(dt, weights["wdt"]) + weights["dt_bias"])
    if cache.lengths is not None:
        step = step * (indices(x.shape[1], past) < cache.lengths[:, None])[..., None]
    y, state = selective_scan(u, step, -exp(weights["a_log"]), b, c, state)
    y = (y + weights["skip"] * u) * silu(linear(x, weights["wz"], weights.get("bz")))
    last = ChannelState(last_inputs(tail, inputs, cache.lengths), state)
    return linear(y, weights["wo"], weights.get("bo")), last
