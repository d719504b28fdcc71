"""Mamba 2: a layer in which the memory of each head is one matrix. The matrix decays at a rate that each
token chooses.

The memory is the state of `ops.ssd`. A token's step Δ > 0 says how much the token counts. With a small
step, the state stays unchanged. With a large step, the state decays away and the token is written (Dao &
Gu 2024, §7.1, figure 6):

    x ──┬─ wi ── convolution over A + 1 tokens, SiLU ──┬─ v, a value a head ───┬─ ⊙ skip ─┐
        │                                              ├─ b, a key a group ────┤          │
        │                                              └─ c, a query a group ──┤          │
        ├─ wdt ── Δ = softplus(· + dt_bias), decay = −Δ exp(a_log) ────────────┴─ ssd ─── + ── ⊙ ── norm ── wo
        └─ wz ── SiLU ──────────────────────────────────────────────────────────────────────────┘

A token writes Δ v, and multiplies the earlier state by exp(−Δ exp(a_log)). One number Δ determines both.
For a short Δ, this is the change of the system S' = −exp(a_log) S + b vᵀ during the time Δ. All maps read
the layer's input, so checkpoints store them as one matrix. Mamba 2's own models have no mlp beside such
layers, but hybrids do. For a text of any length, a layer stores only H · K · V numbers and the
convolution's last A inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, NotRequired, TypedDict

from ..config import SmoothingSite, StateSpace
from ..config.bounds import need
from ..config.record import bounded
from .activation import silu
from .arrays import exp, indices, join_last, softplus, split, split_last, vector
from .cache import KVCache
from .cache_kind import CacheArray, CacheKind, RecurrentState
from .dispatch import op
from .linear import linear
from .norm import rms_norm
from .quant import Blocks
from .short_conv import MatrixState, MatrixStates, begun, causal_conv, last_inputs
from .ssd import ssd_recurrent

if TYPE_CHECKING:
    import numpy as np

    from ..axes import Array, Float, Index


class Mamba2Weights(TypedDict):
    """The parameters of a Mamba 2 layer with H heads of values, and with G groups of keys and queries.

    `wi` and the kernel `conv` make values, keys and queries side by side. `wz` makes the gate of the
    output, and `wdt` makes the steps.
    """

    wi: Float[Array, "D 2*G*K+H*V"] | Blocks
    conv: Float[Array, "A+1 2*G*K+H*V"]
    wz: Float[Array, "D H*V"] | Blocks
    wdt: Float[Array, "D H"]
    a_log: Float[Array, " H"]
    dt_bias: Float[Array, " H"]
    skip: Float[Array, " H"]
    norm: NotRequired[Float[Array, " H*V"]]
    wo: Float[Array, "H*V D"] | Blocks
    conv_bias: NotRequired[Float[Array, " 2*G*K+H*V"]]
    bi: NotRequired[Float[Array, " 2*G*K+H*V"]]
    bz: NotRequired[Float[Array, " H*V"]]
    bdt: NotRequired[Float[Array, " H"]]
    bo: NotRequired[Float[Array, " D"]]


class HybridCache(NamedTuple):
    """The cache of a layer with a state space beside its attention. It consists of keys and values, and of
    the state space's `MatrixState`.
    """

    keys: Float[Array, "B G L K"]
    values: Float[Array, "B G L K"]
    tail: Float[Array, "B A F"]
    state: Float[Array, "B H U V"]
    lengths: Index[Array, " B", "< T+1"] | None = None

    @property
    def attention(self) -> KVCache:
        """The cache of the attention: its keys and values."""
        return KVCache(self.keys, self.values)

    @property
    def states(self) -> MatrixState:
        """The cache of the state space: its last inputs and its matrices."""
        return MatrixState(self.tail, self.state, self.lengths)

    @property
    def capacity(self) -> int:
        """The number of tokens per row for which the cache has room."""
        return self.attention.capacity

    @property
    def nbytes(self) -> int:
        """The size of both parts of the cache in bytes."""
        return self.attention.nbytes + self.states.nbytes

    def select(self, rows: Array) -> HybridCache:
        """Return a cache of the batch rows with the given numbers, in the given order."""
        return HybridCache(*self.attention.select(rows)[:2], *self.states.select(rows))

    def grow(self, capacity: int) -> HybridCache:
        """Return a cache with the same tokens and with room for the keys and values of exactly `capacity`
        tokens per row.
        """
        return HybridCache(*self.attention.grow(capacity)[:2], *self.states.grow(capacity))


@dataclass(frozen=True)
class HybridStates(RecurrentState):
    """The kind of cache of a layer with attention and a state space beside it: keys and values, and the
    state space's state.
    """

    holds = HybridCache

    attention: CacheKind
    states: MatrixStates

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        return (*self.attention.arrays, *self.states.arrays)

    def empty(self, batch: int, capacity: int, dtype: np.dtype) -> HybridCache:
        attention, states = (kind.empty(batch, capacity, dtype) for kind in (self.attention, self.states))
        return HybridCache(*attention[:2], *states)


class Mamba2(StateSpace):
    """The settings of Mamba 2's layer, which has a state [state_size, head_size] for each of `heads`
    (`ops.mamba2`).

    `heads` of values share `groups` of keys and queries. A convolution lets values, keys and queries see
    the `length` latest tokens. `conv_bias` says whether the convolution has a bias, `bias` whether the
    input maps have biases, and `out_bias` whether the output map has one. `norm` says whether each group's
    output is normalized after its product with the gate, before it, or not at all. `multipliers` are
    factors of the outputs of the maps to gate, values, keys, queries and steps, in this order (Falcon-H1).
    """

    heads: int = bounded("heads")
    groups: int = bounded("heads")
    state_size: int = bounded("width")
    head_size: int = bounded("width")
    length: int = bounded("kernel", "length of the convolution", least=2, default=4)
    conv_bias: bool = True
    bias: bool = False
    out_bias: bool = False
    norm: Literal["after_gate", "before_gate"] | None = "after_gate"
    eps: float = 1e-5
    multipliers: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """The width of all heads together."""
        return self.heads * self.head_size

    @property
    def channels(self) -> int:
        """The number of channels that the convolution reads: all channels of values, keys and queries."""
        return self.width + 2 * self.groups * self.state_size

    weights = Mamba2Weights
    title, place, in_parts = "Mamba 2's layer", "decoder", True
    choices: ClassVar = {
        "eps": (1e-6, 0.1),
        "norm_place": ("after_gate", "before_gate"),
        "multipliers": ((), (0.5, 1.5, 0.75, 1.25, 2.0)),
    }
    together: ClassVar = {"bz": "bi", "bdt": "bi"}
    gates = "wi", "wz", "wdt"
    largest: ClassVar = {"a_log": 4}  # decays are between 0.02 and 55 a token

    def check(self, at: str) -> None:
        super().check(at)
        divisible = self.heads % self.groups == 0
        need(divisible, f"{at}heads must be a multiple of groups, got {self.heads} and {self.groups}")
        count = len(self.multipliers)
        need(count in (0, 5), f"{at}multipliers must be five or none, got {count}")

    def sizes(self, width: int) -> Mapping[str, float]:
        heads = {"H": self.heads, "G": self.groups, "K": self.state_size, "V": self.head_size}
        return {"A": self.length - 1, **heads}

    def leaves(self) -> Sequence[str]:
        there = {
            "norm": self.norm is not None, "conv_bias": self.conv_bias, "bo": self.out_bias,
            **dict.fromkeys(("bi", "bz", "bdt"), self.bias),
        }  # fmt: skip
        return [leaf for leaf, has in there.items() if has]

    def cache_kind(self) -> MatrixStates:
        return MatrixStates(self.length - 1, self.channels, self.heads, self.state_size, self.head_size)

    def cache_kind_beside(self, attention: CacheKind) -> HybridStates:
        return HybridStates(attention, self.cache_kind())

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, MatrixState, Array | None]:
        return *mamba2(x, cache, past, weights, settings=self), chosen

    def readers(self) -> tuple[str, ...]:
        return "wi", "wz", "wdt"

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        return [] if self.norm is None else [SmoothingSite(("norm",), ("wo",))]

    def describe(self) -> str:
        states = f"{self.heads} states of {self.state_size} x {self.head_size}"
        return f"Mamba 2, {states}, convolution over {self.length} tokens"

    def epsilons(self) -> dict[str, float]:
        return {"norm": self.eps}

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> Mamba2:
        return cls(
            size["H"],
            size["G"],
            size["K"],
            size["V"],
            size["A"] + 1,
            norm=None if chosen["norm"] is None else chosen["norm_place"],
            eps=chosen["eps"],
            multipliers=chosen["multipliers"],
        )


@op
def mamba2(
    x: Float[Array, "B T D"],
    cache: MatrixState,
    past: Index[Array, " B", "< O+1"],
    weights: Mamba2Weights,
    *,
    settings: Mamba2,
) -> tuple[Float[Array, "B T D"], MatrixState]:
    """Compute Mamba 2's token mixing: projections, a causal convolution, the state space, a gated norm, and
    the output projection. `ssd_recurrent` continues from the cache's state.

    Let z = silu(x wz). RMSNorm normalizes all heads of a group together, after or before the product with
    z:

        after_gate     y = norm ⊙ rms_norm(z ⊙ ssd(…))
        before_gate    y = norm ⊙ z ⊙ rms_norm(ssd(…))

    Conventions: a row with no token before the call begins at zero, whatever its cache contains. Padding
    changes no state; outputs at padding are unspecified. The settings' multipliers are applied after the
    biases of the maps, so the convolution's cache keeps the multiplied inputs.
    """
    m, keys = settings, settings.groups * settings.state_size
    tail, state = begun(cache.tail, past), begun(cache.state, past)
    inputs = linear(x, weights["wi"], weights.get("bi"))
    dt, z = linear(x, weights["wdt"], weights.get("bdt")), linear(x, weights["wz"], weights.get("bz"))
    if m.multipliers:
        of_z, of_v, of_b, of_c, of_dt = m.multipliers
        inputs = inputs * vector([of_v] * m.width + [of_b] * keys + [of_c] * keys, inputs)
        z, dt = of_z * z, of_dt * dt
    mixed = silu(causal_conv(inputs, weights["conv"], tail, weights.get("conv_bias")))
    v, b, c = split(mixed, (m.width, keys, keys))
    v, b, c = split_last(v, m.head_size), split_last(b, m.state_size), split_last(c, m.state_size)
    step = softplus(dt + weights["dt_bias"])
    if cache.lengths is not None:
        step = step * (indices(x.shape[1], past) < cache.lengths[:, None])[..., None]
    y, state = ssd_recurrent(v * step[..., None], -exp(weights["a_log"]) * step, b, c, state)
    y = join_last(y + weights["skip"][:, None] * v)
    y = _gated(y, silu(z), weights.get("norm"), settings=m)
    last = MatrixState(last_inputs(tail, inputs, cache.lengths), state)
    return linear(y, weights["wo"], weights.get("bo")), last


def _gated(y: Array, gate: Array, norm: Array | None, *, settings: Mamba2) -> Array:
    """Multiply y by the gate, and normalize after or before the product."""
    if settings.norm is None:
        return y * gate
    before = settings.norm == "before_gate"
    grouped = split_last(y if before else y * gate, settings.width // settings.groups)
    y = join_last(rms_norm(grouped, eps=settings.eps)) * norm
    return y * gate if before else y
