"""Gated delta networks: layers in which the memory of each head is one matrix. Tokens write to the matrix,
correct it and let it decay.

Attention keeps each token's key and value. Here a state S [K, V] of fixed size replaces all of them. It is
like a table from keys to values that a query reads by a product. Each token does three things to it and
then reads:

    forget    S ← exp(decay) · S            decay ≤ 0, one number per token and head
    look up   old = Sᵀ k                    the value now stored under the token's key
    correct   S ← S + k (β (v − old))ᵀ      a share β of this value is replaced by v
    read      y = Sᵀ q / √K

Plain sums of k vᵀ (linear attention) mix values that were written under similar keys. The correction first
removes the value that is stored under the token's own key. The decay removes a share of everything,
including values that no later key removes. From S = 0 and without decay, after a token (k, v) with β = 1
the query q = k reads v/√K. After a second token (k, v') it reads v'/√K, where linear attention gives (v +
v')/√K. The rest of the layer (Yang, Kautz & Hatamizadeh 2025, figure 1; Qwen3-Next, Qwen 3.5):

    x ──┬─ wi ── convolution over A + 1 tokens, SiLU ──┬─ q, of length 1 ─┐
        │                                              ├─ k, of length 1 ─┤
        │                                              └─ v ──────────────┤
        ├─ wa ── decay = −exp(a_log) · softplus(· + dt_bias) ─────────────┼─ rule ── norm ── ⊙ ── wo ── y
        ├─ wb ── β = σ(·) ────────────────────────────────────────────────┘                  │
        └─ wz ── SiLU ───────────────────────────────────────────────────────────────────────┘

The correction turns S into (I − β k kᵀ) S + β k vᵀ. In the direction of k, the stored value is multiplied
by 1 − β |k|²; in other directions it is unchanged. With keys of length 1 and β between 0 and 2, that
factor makes nothing larger. With queries of length 1, the result of reading doesn't depend on the size of
queries. Above β = 1 the factor is negative, so the value stored in the direction of k changes its sign. So
the state can count in ways that a state that only shrinks can't, for example a parity (Grazzi et al. 2025,
Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues; OLMo Hybrid).

A layer keeps H · K · V numbers and the convolution's last A inputs, for a text of any length. No token can
be removed from S. To take tokens back, keep a copy of S and of those inputs from before the token, or read
the text again (`short_conv.MatrixState`).

Kimi Delta Attention (Kimi Team 2025, Kimi Linear, arXiv 2510.26692, §3 and §4) has finer decays: each of
the K numbers of a key has a decay of its own. Each row of S belongs to one number of the key. So each row
decays at a rate that the token chooses, independently of the other rows. A map from x to H · K rates would
be large, so the rates are made through F numbers. The gate of the output is made in the same way, and is a
sigmoid there:

    decay = −exp(a_log) · softplus((x wa_a) wa + dt_bias)       one of a channel, a_log one of a head
    gate  = σ((x wz_a) wz)

Such decays also encode the order of tokens. In each channel, the product of a query and a key is weighted
by the decay between the two tokens, as a rotary pair's product is weighted by an angle (§6.1). For that
reason Kimi Linear's attention in every fourth layer has no positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NotRequired, TypedDict

from ..config import TokenMixer
from ..config.bounds import need
from ..config.record import bounded
from .activation import precise_sigmoid, precise_silu, sigmoid, silu
from .arrays import each_repeated, exp, indices, join_last, softplus, split, split_last
from .delta import gated_delta_rule
from .dispatch import op
from .linear import linear
from .norm import l2_norm, rms_norm
from .quant import Blocks
from .short_conv import MatrixState, MatrixStates, begun, causal_conv, last_inputs

if TYPE_CHECKING:
    from ..axes import Array, Float, Index

UNIT_EPS = 1e-6


class GatedDeltaWeights(TypedDict):
    """The parameters of a gated delta network with G heads of queries and keys and H heads of values.

    `wi` and the kernel `conv` make queries, keys and values side by side. `wz` makes the gate of the
    output, `wb` makes the rates β of writing, and `wa` makes the decays. In Kimi Delta Attention, `wz_a`
    and `wa_a` make the F numbers that `wz` and `wa` read, and there are H · K decays per token.
    """

    wi: Float[Array, "D 2*G*K+H*V"] | Blocks
    conv: Float[Array, "A+1 2*G*K+H*V"]
    wz_a: NotRequired[Float[Array, "D F"] | Blocks]
    wa_a: NotRequired[Float[Array, "D F"]]
    wz: Float[Array, "F H*V"] | Blocks | Float[Array, "D H*V"]
    wb: Float[Array, "D H"]
    wa: Float[Array, "F H*K"] | Float[Array, "D H"]
    a_log: Float[Array, " H"]
    dt_bias: Float[Array, " H*K"] | Float[Array, " H"]
    norm: Float[Array, " V"]
    wo: Float[Array, "H*V D"] | Blocks


class GatedDelta(TokenMixer):
    """The settings of a gated delta network, which has a state [key_size, value_size] for each of `heads`
    (`ops.gated_delta`).

    The `heads` of values share `key_heads` heads of queries and keys. A convolution lets each head see the
    `length` latest tokens. `eps` belongs to the norm of each head's output. With `allow_neg_eigval`, a
    token may write up to twice its error (OLMo Hybrid). With `rank`, the layer is Kimi Delta Attention:
    each number of a key has a decay of its own, and the output's gate is a sigmoid. Decay and gate are
    each made through `rank` numbers, or with `by_channel` directly from x (Ling 3). With `max_decay`, no
    token multiplies the state by less than exp(−max_decay). With `sigmoid_gate`, the output's gate is a
    sigmoid without a rank too (Qwen4-Exp).
    """

    heads: int = bounded("heads")
    key_heads: int = bounded("heads")
    key_size: int = bounded("width")
    value_size: int = bounded("width")
    length: int = bounded("kernel", "length of the convolution", least=2, default=4)
    eps: float = 1e-6
    allow_neg_eigval: bool = False
    rank: int | None = bounded("width", "rank of decay and gate", default=None)
    by_channel: bool = False
    max_decay: float | None = None
    sigmoid_gate: bool = False

    @property
    def fine(self) -> bool:
        """Whether each element of a key has a decay of its own."""
        return self.by_channel or self.rank is not None

    @property
    def channels(self) -> int:
        """The number of channels that the convolution reads: all channels of queries, keys and values."""
        return 2 * self.key_heads * self.key_size + self.heads * self.value_size

    weights = GatedDeltaWeights
    title, place, keeps, in_parts = "a gated delta network", "decoder", "state", True
    choices: ClassVar = {"eps": (1e-6, 0.1), "allow_neg_eigval": (False, True), "sigmoid_gate": (False, True)}
    together: ClassVar = {"wz": "wz_a", "wa_a": "wz_a", "wa": "wa_a", "dt_bias": "wa_a"}
    gates = "wi", "wz", "wb"
    largest: ClassVar = {"a_log": 4}  # decays are between 0.02 and 55 a token

    def check(self, at: str) -> None:
        super().check(at)
        divisible = self.heads % self.key_heads == 0
        need(divisible, f"{at}heads must be a multiple of key_heads, got {self.heads} and {self.key_heads}")
        channels = self.max_decay is None or self.fine
        need(channels, f"{at}max_decay needs a decay for each channel, got one decay for each head")

    def sizes(self, width: int) -> Mapping[str, float]:
        heads = {"H": self.heads, "G": self.key_heads, "K": self.key_size, "V": self.value_size}
        return {"A": self.length - 1, "F": self.rank or (width if self.by_channel else 0), **heads}

    def leaves(self) -> Sequence[str]:
        return () if self.rank is None else ("wz_a", "wa_a")

    def form(self, leaf: str) -> int:
        return int(not self.fine and leaf in ("wz", "wa", "dt_bias"))

    def cache_kind(self) -> MatrixStates:
        return MatrixStates(self.length - 1, self.channels, self.heads, self.key_size, self.value_size)

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, MatrixState, Array | None]:
        return *gated_delta(x, cache, past, weights, settings=self), chosen

    def readers(self) -> tuple[str, ...]:
        through = "" if self.rank is None else "_a"
        return "wi", f"wz{through}", "wb", f"wa{through}"

    def describe(self) -> str:
        states = f"{self.heads} states of {self.key_size} x {self.value_size}"
        rank = "" if self.rank is None else f" of rank {self.rank}"
        kind = f"Kimi delta attention{rank}" if self.fine else "gated delta network"
        return f"{kind}, {states}, convolution over {self.length} tokens"

    def numbers(self) -> Iterator[float]:
        yield from (self.key_size**-0.5, UNIT_EPS)
        if self.max_decay is not None:
            yield -self.max_decay

    def epsilons(self) -> dict[str, float]:
        return {"norm": self.eps}

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> GatedDelta:
        return cls(
            heads=size["H"],
            key_heads=size["G"],
            key_size=size["K"],
            value_size=size["V"],
            length=size["A"] + 1,
            eps=chosen["eps"],
            allow_neg_eigval=chosen["allow_neg_eigval"],
            sigmoid_gate=chosen["sigmoid_gate"],
            rank=None if chosen["wz_a"] is None else size["F"],
        )


@op
def gated_delta(
    x: Float[Array, "B T D"],
    cache: MatrixState,
    past: Index[Array, " B", "< O+1"],
    weights: GatedDeltaWeights,
    *,
    settings: GatedDelta,
) -> tuple[Float[Array, "B T D"], MatrixState]:
    """Compute the token mixing of a gated delta network: projections, a causal convolution, the delta rule, a
    norm, a gate, and the output projection. `gated_delta_rule` continues from the cache's state.

    Value head h reads with query head h // R and writes under key head h // R, R = H / G. Queries and keys
    are normalized: x / √(Σ x² + 1e-6). The output of each head is normalized by RMSNorm before the gate
    multiplies it:

        y = (rms_norm(rule(q, k, v)) · norm ⊙ silu(x wz)) wo

    If the settings have a rank, the gate is σ((x wz_a) wz) instead of silu(x wz). With `by_channel` or
    `sigmoid_gate`, the gate is σ(x wz). With a `max_decay` b, the decay is −b σ(exp(a_log) (x wa +
    dt_bias)). β is σ(x wb). With `allow_neg_eigval`, β is 2 σ(x wb), so that the eigenvalue 1 − β of I − β
    k kᵀ may be negative.

    Conventions: a row with no token before the call begins at zero, whatever its cache contains. Padding
    changes no state; outputs at padding are unspecified.
    """
    a, width = settings, settings.key_heads * settings.key_size
    tail, state = begun(cache.tail, past), begun(cache.state, past)
    inputs = linear(x, weights["wi"])
    mixed = precise_silu(causal_conv(inputs, weights["conv"], tail))
    q, k, v = split(mixed, (width, width, a.heads * a.value_size))
    q, k = (l2_norm(split_last(y, a.key_size), eps=UNIT_EPS) for y in (q, k))
    q, k = (each_repeated(y, a.heads // a.key_heads, 2) for y in (q, k))
    speed, gate = _through(x, weights, "wa") + weights["dt_bias"], _through(x, weights, "wz")
    if a.max_decay is None:
        rate = softplus(speed)
    else:
        rate = precise_sigmoid(join_last(exp(weights["a_log"])[:, None] * split_last(speed, a.key_size)))
    beta = precise_sigmoid(linear(x, weights["wb"]))
    if a.allow_neg_eigval:
        beta = 2 * beta
    if cache.lengths is not None:
        real = (indices(x.shape[1], past) < cache.lengths[:, None])[..., None]
        rate, beta = rate * real, beta * real
    rates = -exp(weights["a_log"])
    if a.max_decay is not None:
        decay = -a.max_decay * split_last(rate, a.key_size)
    else:
        decay = rates[:, None] * split_last(rate, a.key_size) if a.fine else rates * rate
    y, state = gated_delta_rule(q, k, split_last(v, a.value_size), state, decay, beta)
    y = join_last(rms_norm(y, weights["norm"], eps=a.eps))
    y = y * (sigmoid(gate) if a.fine or a.sigmoid_gate else silu(gate))
    return linear(y, weights["wo"]), MatrixState(last_inputs(tail, inputs, cache.lengths), state)


def _through(x: Array, weights: GatedDeltaWeights, name: Literal["wa", "wz"]) -> Array:
    """Multiply x by a weight. If there is a narrow map before this weight, multiply by the narrow map
    first.
    """
    first = weights.get(f"{name}_a")
    return linear(x if first is None else linear(x, first), weights[name])
