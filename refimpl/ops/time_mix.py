"""RWKV's time mixing: a layer whose channels average all tokens so far, older ones with a smaller weight.

The average is that of `ops.wkv`. Keys, values and gates are each made from a mixture of a token's vector and
the vector of the token before it, with a share μ of its own for each element (Peng et al. 2023, "RWKV:
Reinventing RNNs for the Transformer Era", arXiv 2305.13048, §3.1, figure 2, equations 11 to 17):

    x' ─┐              ┌─ μ_k x + (1 − μ_k) x' ── wk ── k ──┐
        ├─ token shift ┼─ μ_v x + (1 − μ_v) x' ── wv ── v ──┴─ average ── ⊙ ── wo ── y
    x ──┘              └─ μ_r x + (1 − μ_r) x' ── wr ── σ ───────────────┘

x' is the vector of the token before, and zeros for a text's first token. For a text of any length, a layer
keeps the last vector and three numbers for each channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypedDict

from ..config import TokenMixer
from ..config.bounds import need
from ..config.record import bounded
from .activation import sigmoid
from .arrays import concatenate, exp, indices, where, zeros_like
from .cache_kind import CacheArray, RecurrentState, same_state, state_nbytes, state_rows
from .dispatch import op
from .linear import linear
from .quant import Blocks
from .short_conv import begun, last_inputs
from .wkv import NEVER, PADDING, wkv

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class TimeMixWeights(TypedDict):
    """The parameters of F channels: the shares of the token itself in what keys, values and gates are made
    from, the maps, the logarithm of each channel's rate of decay, and the bonus of the token itself."""

    mix_k: Float[Array, " D"]
    mix_v: Float[Array, " D"]
    mix_r: Float[Array, " D"]
    wk: Float[Array, "D F"] | Blocks
    wv: Float[Array, "D F"] | Blocks
    wr: Float[Array, "D F"] | Blocks
    log_rate: Float[Array, " F"]
    bonus: Float[Array, " F"]
    wo: Float[Array, "F D"] | Blocks


class TimeMixState(NamedTuple):
    """The state of time mixing: the last vector, and the sums of `ops.wkv`.

    `lengths` [B] is set for a step with rows padded on the right: how many tokens of each row are real.
    """

    tail: Float[Array, "B 1 D"]
    numerator: Float[Array, "B F"]
    denominator: Float[Array, "B F"]
    exponent: Float[Array, "B F"]
    lengths: Index[Array, " B", "< T+1"] | None = None

    nbytes, select, grow = state_nbytes, state_rows, same_state


@dataclass(frozen=True)
class TimeMixStates(RecurrentState):
    """The kind of cache of time mixing: the last vector of `inputs` numbers, and three numbers for each of
    its `channels`.
    """

    holds = TimeMixState

    inputs: int
    channels: int

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        sums = (CacheArray(name, ("batch", self.channels)) for name in TimeMixState._fields[1:4])
        return CacheArray("shift", ("batch", 1, self.inputs)), *sums


class TimeMix(TokenMixer):
    """RWKV's time mixing: `width` channels that average tokens (`ops.time_mix`). `inputs` is the width of the
    model.
    """

    width: int = bounded("width", "width of the channels")
    inputs: int = bounded("width", "width of the last vector")

    weights = TimeMixWeights
    title, place, keeps, in_parts = "time mixing", "decoder", "state", True
    in_rounds = True
    gates = "wk", "wr"
    largest: ClassVar = {"log_rate": 4}  # decays are between 0.02 and 55 a token

    @classmethod
    def check_together(cls, name: str, mixers: Sequence[Self], width: int, vocabulary: int) -> None:
        check_inputs(name, mixers, width)

    def sizes(self, width: int) -> Mapping[str, float]:
        return {"F": self.width}

    def cache_kind(self) -> TimeMixStates:
        return TimeMixStates(self.inputs, self.width)

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, TimeMixState, Array | None]:
        return *time_mix(x, cache, past, weights), chosen

    def readers(self) -> tuple[str, ...]:
        return "wk", "wv", "wr"

    def describe(self) -> str:
        return f"time mixing in {self.width} channels"

    def numbers(self) -> Iterator[float]:
        yield from (NEVER, PADDING)


def check_inputs(name: str, mixers: Sequence[Any], width: int) -> None:
    """Raise ConfigError unless the `inputs` of these mixers are the model's width."""
    for mixer in mixers:
        fits = mixer.inputs == width
        need(fits, f"{name}: inputs of {mixer.title} must be the model's width ({width}), got {mixer.inputs}")


@op
def time_mix(
    x: Float[Array, "B T D"],
    cache: TimeMixState,
    past: Index[Array, " B", "< O+1"],
    weights: TimeMixWeights,
) -> tuple[Float[Array, "B T D"], TimeMixState]:
    """Compute RWKV's time mixing: the token shift, keys, values and gates, their average, and the output
    projection. `wkv` continues from the cache's sums, with the decay −exp(log_rate).

    Conventions: a row with no token before the call begins with zeros and no sums, whatever its cache holds.
    Padding changes no state; outputs at padding are unspecified.
    """
    tail = begun(cache.tail, past)
    before = previous(tail, x)
    k, v, r = (
        linear(mixture(x, before, weights[share]), weights[name])
        for share, name in (("mix_k", "wk"), ("mix_v", "wv"), ("mix_r", "wr"))
    )
    decay = zeros_like(k) - exp(weights["log_rate"])
    if cache.lengths is not None:
        real = (indices(x.shape[1], past) < cache.lengths[:, None])[..., None]
        k, decay = where(real, k, PADDING), decay * real
    there = (past > 0)[:, None]
    denominator, exponent = where(there, cache.denominator, 1.0), where(there, cache.exponent, NEVER)
    y, *sums = wkv(k, v, decay, weights["bonus"], begun(cache.numerator, past), denominator, exponent)
    return linear(sigmoid(r) * y, weights["wo"]), TimeMixState(last_inputs(tail, x, cache.lengths), *sums)


def previous(tail: Array, x: Array) -> Array:
    """Return the vector of the token before each of x [B, T, D]; that of the first is `tail` [B, 1, D]."""
    return concatenate((tail, x), 1)[:, : x.shape[1]]


def mixture(x: Array, before: Array, share: Array) -> Array:
    """share ⊙ x + (1 − share) ⊙ before."""
    return x * share + before * (1 - share)
