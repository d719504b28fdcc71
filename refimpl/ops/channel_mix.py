"""RWKV's channel mixing: an mlp that also reads the token before, and whose output has a gate.

Its hidden units and its gate are each made from a mixture of a token's vector x and the vector x' of the
token before it (Peng et al. 2023, "RWKV: Reinventing RNNs for the Transformer Era", arXiv 2305.13048, §3.1,
equations 18 to 20):

    y = σ((μ_r x + (1 − μ_r) x') w_gate) ⊙ (max((μ_k x + (1 − μ_k) x') w_units, 0)² w_down)

An mlp reads one token alone. This sublayer reads two, and keeps the last vector of a text. So it is a token
mixer here, in a layer of its own without an mlp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypedDict

from ..config import TokenMixer
from ..config.record import bounded
from .activation import relu_squared, sigmoid
from .cache_kind import CacheArray, RecurrentState, same_state, state_nbytes, state_rows
from .dispatch import op
from .linear import linear
from .quant import Blocks
from .short_conv import begun, last_inputs
from .time_mix import check_inputs, mixture, previous

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class ChannelMixWeights(TypedDict):
    """The parameters of F hidden units: the shares of the token itself in what units and gates are made from,
    and the maps."""

    mix_units: Float[Array, " D"]
    mix_gate: Float[Array, " D"]
    w_units: Float[Array, "D F"] | Blocks
    w_gate: Float[Array, "D D"] | Blocks
    w_down: Float[Array, "F D"] | Blocks


class ChannelMixState(NamedTuple):
    """The state of channel mixing: the last vector.

    `lengths` [B] is set for a step with rows padded on the right: how many tokens of each row are real.
    """

    tail: Float[Array, "B 1 D"]
    lengths: Index[Array, " B", "< T+1"] | None = None

    nbytes, select, grow = state_nbytes, state_rows, same_state


@dataclass(frozen=True)
class ChannelMixStates(RecurrentState):
    """The kind of cache of channel mixing: the last vector of `inputs` numbers."""

    holds = ChannelMixState
    adds_up = costly_runs = False

    inputs: int

    def why_not_shorter(self) -> str:
        return "channel mixing stores only its last input"

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        return (CacheArray("shift", ("batch", 1, self.inputs)),)


class ChannelMix(TokenMixer):
    """RWKV's channel mixing: `width` hidden units (`ops.channel_mix`). `inputs` is the width of the model."""

    width: int = bounded("width", "width of the hidden units")
    inputs: int = bounded("width", "width of the last vector")

    weights = ChannelMixWeights
    title, place, keeps = "channel mixing", "decoder", "state"
    gates = ("w_gate",)

    @classmethod
    def check_together(cls, name: str, mixers: Sequence[Self], width: int, vocabulary: int) -> None:
        check_inputs(name, mixers, width)

    def sizes(self, width: int) -> Mapping[str, float]:
        return {"F": self.width}

    def cache_kind(self) -> ChannelMixStates:
        return ChannelMixStates(self.inputs)

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, ChannelMixState, Array | None]:
        return *channel_mix(x, cache, past, weights), chosen

    def readers(self) -> tuple[str, ...]:
        return "w_units", "w_gate"

    def describe(self) -> str:
        return f"channel mixing through {self.width} units"


@op
def channel_mix(
    x: Float[Array, "B T D"],
    cache: ChannelMixState,
    past: Index[Array, " B", "< O+1"],
    weights: ChannelMixWeights,
) -> tuple[Float[Array, "B T D"], ChannelMixState]:
    """Compute RWKV's channel mixing: the token shift, the squared ReLU of the hidden units, and the gate.

    Conventions: a row with no token before the call begins with zeros, whatever its cache holds. Padding
    changes no state; outputs at padding are unspecified.
    """
    tail = begun(cache.tail, past)
    before = previous(tail, x)
    units = relu_squared(linear(mixture(x, before, weights["mix_units"]), weights["w_units"]))
    gate = sigmoid(linear(mixture(x, before, weights["mix_gate"]), weights["w_gate"]))
    return gate * linear(units, weights["w_down"]), ChannelMixState(last_inputs(tail, x, cache.lengths))
