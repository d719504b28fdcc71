"""Lightning attention: linear attention with sums that decay, at a fixed rate for each head.

A state S [K, K] of each head replaces all earlier tokens. It is like a table from keys to values:

    S_t = λ S_{t−1} + k_t v_tᵀ        λ = exp(−rate)
    o_t = S_tᵀ q_t

Seen as attention, a token's value has the weight λ^(t−s) (q_t·k_s): there is no softmax, there are no
positions, and nothing is divided by √K. The rates depend on the number of the head, as ALiBi's slopes do,
and on the number of the layer (MiniMax 2025, "MiniMax-01: Scaling Foundation Models with Lightning
Attention", arXiv 2501.08313, §2.2; Qin et al. 2024, arXiv 2401.04658). A head that decays fast sees few
tokens. The last head of a late layer sees nearly all tokens.

    x ──┬─ wi ── SiLU ── q, k, v ── state ── norm ── ⊙ ── wo ── y
        └─ wz ── σ ───────────────────────────────── ┘

The recurrence is the same as in `ops.ssd`, with one decay for all tokens. For a text of any length, a
layer stores H · K · K numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypedDict

from ..config import Activation, SmoothingSite, TokenMixer
from ..config.record import bounded
from .activation import activation, sigmoid
from .arrays import indices, join_last, split, split_last, vector, zeros_like
from .cache_kind import CacheArray, RecurrentState, same_state, state_nbytes, state_rows
from .dispatch import op
from .linear import linear
from .norm import rms_norm
from .quant import Blocks
from .short_conv import begun
from .ssd import ssd_recurrent

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class LightningWeights(TypedDict):
    """The parameters of lightning attention: one map to queries, keys and values side by side, the map to
    the output's gate, the output's norm, and the output projection."""

    wi: Float[Array, "D 3*H*K"] | Blocks
    wz: Float[Array, "D H*K"] | Blocks
    norm: Float[Array, " H*K"]
    wo: Float[Array, "H*K D"] | Blocks


class LightningState(NamedTuple):
    """The state of lightning attention: one matrix for each head.

    `lengths` [B] is set only in a step with rows padded on the right. It says how many tokens of each row
    are real.
    """

    state: Float[Array, "B H K K"]
    lengths: Index[Array, " B", "< T+1"] | None = None

    nbytes, select, grow = state_nbytes, state_rows, same_state


@dataclass(frozen=True)
class LightningStates(RecurrentState):
    """The kind of cache of lightning attention: a state that consists of one matrix for each head."""

    holds = LightningState

    heads: int
    head_size: int

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        return (CacheArray("state", ("batch", self.heads, self.head_size, self.head_size)),)


class Lightning(TokenMixer):
    """The settings of lightning attention, which has a state [head_size, head_size] for each of `heads`
    (`ops.lightning`).

    Head h of H, counted from 1, decays at the rate `speed` · 2^(−8 h / H). `eps` belongs to the output's
    norm.
    """

    heads: int = bounded("heads")
    head_size: int = bounded("width")
    speed: float = 1.0
    activation: Activation = "silu"
    eps: float = 1e-6

    weights = LightningWeights
    title, place, keeps, in_parts = "lightning attention", "decoder", "state", True
    choices: ClassVar = {"eps": (1e-6, 0.1), "speed": (0.5, 1.0)}
    gates = "wi", "wz"

    @property
    def slope_rate(self) -> tuple[float, ...]:
        """The rate at which each head decays."""
        return tuple(self.speed * 2 ** (-8 * (h + 1) / self.heads) for h in range(self.heads))

    def sizes(self, width: int) -> Mapping[str, float]:
        return {"H": self.heads, "K": self.head_size}

    def cache_kind(self) -> LightningStates:
        return LightningStates(self.heads, self.head_size)

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, LightningState, Array | None]:
        return *lightning(x, cache, past, weights, settings=self), chosen

    def readers(self) -> tuple[str, ...]:
        return "wi", "wz"

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        return [SmoothingSite(("norm",), ("wo",))]

    def describe(self) -> str:
        return f"lightning attention, {self.heads} states of {self.head_size} x {self.head_size}"

    def numbers(self) -> Iterator[float]:
        yield from self.slope_rate

    def epsilons(self) -> dict[str, float]:
        return {"norm": self.eps}

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> Lightning:
        return cls(size["H"], size["K"], speed=chosen["speed"], eps=chosen["eps"])


@op
def lightning(
    x: Float[Array, "B T D"],
    cache: LightningState,
    past: Index[Array, " B", "< O+1"],
    weights: LightningWeights,
    *,
    settings: Lightning,
) -> tuple[Float[Array, "B T D"], LightningState]:
    """Compute lightning attention: projections with an activation, the decaying state, a norm, a gate, and
    the output projection. `ssd_recurrent` continues from the cache's state.

    The activation is applied to queries, keys and values alike. RMSNorm normalizes all heads together,
    before the gate multiplies the result.

    Conventions: a row with no token before the call begins at zero, whatever its cache contains. Padding
    changes no state; outputs at padding are unspecified.
    """
    size, width = settings.head_size, settings.heads * settings.head_size
    mixed = activation(linear(x, weights["wi"]), kind=settings.activation)
    q, k, v = (split_last(y, size) for y in split(mixed, (width,) * 3))
    decay = zeros_like(k[..., 0]) - vector(settings.slope_rate, k)
    if cache.lengths is not None:
        real = (indices(x.shape[1], past) < cache.lengths[:, None])[..., None]
        decay, k = decay * real, k * real[..., None]
    y, state = ssd_recurrent(v, decay, k, q, begun(cache.state, past))
    y = rms_norm(join_last(y), weights["norm"], eps=settings.eps)
    y = y * sigmoid(linear(x, weights["wz"]))
    return linear(y, weights["wo"]), LightningState(state)
