"""Linear attention: φ(q)·φ(k) replaces exp(q·k). So a cache stores only sums over the keys, not the keys
themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from ..config import FeatureMap, SmoothingSite, TokenMixer
from ..config.record import bounded
from ..config.token_mixers import check_groups
from .activation import relu
from .arrays import indices, join_last, where
from .attention import heads
from .cache_kind import CacheArray, RecurrentState, same_state, state_nbytes, state_rows
from .dispatch import op
from .linear import linear
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Bool, Float, Index


class LinearAttentionWeights(TypedDict):
    """The parameters of a sublayer of linear attention: four projections with their biases."""

    wq: Float[Array, "D H*K"] | Blocks
    wk: Float[Array, "D G*K"] | Blocks
    wv: Float[Array, "D G*K"] | Blocks
    wo: Float[Array, "H*K D"] | Blocks
    bq: NotRequired[Float[Array, " H*K"]]
    bk: NotRequired[Float[Array, " G*K"]]
    bv: NotRequired[Float[Array, " G*K"]]
    bo: NotRequired[Float[Array, " D"]]


class LinearState(NamedTuple):
    """The state of linear attention: the sums Σ φ(k) vᵀ and Σ φ(k). Its size is the same for any text.

    `lengths` [B] is set only in a step with rows padded on the right. It says how many tokens of each row
    are real.
    """

    state: Float[Array, "B G K K"]
    norm: Float[Array, "B G K"]
    lengths: Index[Array, " B", "< T+1"] | None = None

    nbytes, select, grow = state_nbytes, state_rows, same_state


@dataclass(frozen=True)
class LinearSums(RecurrentState):
    """The kind of cache of linear attention: a state that consists of sums over keys and values."""

    holds = LinearState

    kv_heads: int
    head_size: int

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        axes = ("batch", self.kv_heads, self.head_size)
        return CacheArray("state", (*axes, self.head_size)), CacheArray("norm", axes)


class LinearAttention(TokenMixer):
    """The settings of linear attention, which uses φ(q)·φ(k) instead of exp(q·k). `features` says which
    function φ is.

    The state of linear attention doesn't grow with the number of tokens. Linear attention adds no
    positions.
    """

    heads: int = bounded("heads")
    kv_heads: int = bounded("heads")
    head_size: int = bounded("width")
    features: FeatureMap = "elu"
    qkv_bias: bool = False
    out_bias: bool = False

    weights = LinearAttentionWeights
    title, place, keeps = "linear attention", "decoder", "state"

    def check(self, at: str) -> None:
        super().check(at)
        check_groups(at, self.heads, self.kv_heads)

    def sizes(self, width: int) -> Mapping[str, float]:
        return {"H": self.heads, "G": self.kv_heads, "K": self.head_size}

    def leaves(self) -> Sequence[str]:
        return *(("bq", "bk", "bv") if self.qkv_bias else ()), *(("bo",) if self.out_bias else ())

    def cache_kind(self) -> LinearSums:
        return LinearSums(self.kv_heads, self.head_size)

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, LinearState, Array | None]:
        return *linear_attention(x, cache, past, weights, settings=self), chosen

    def readers(self) -> tuple[str, ...]:
        return "wq", "wk", "wv"

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        producers = ("wv", "bv") if self.qkv_bias else ("wv",)
        return [SmoothingSite(producers, ("wo",), self.heads // self.kv_heads, self.head_size)]

    def describe(self) -> str:
        heads = f"{self.heads} heads of {self.head_size} in {self.kv_heads} groups"
        return f"linear attention ({self.features}), {heads}"

    def numbers(self) -> Iterator[float]:
        yield self.head_size**-0.5


@op
def elu_features(x: Float[Array, "B T H K"]) -> Float[Array, "B T H K"]:
    """Compute φ(x) = elu(x) + 1, which is x + 1 above zero and exp(x) below (Katharopoulos et al. 2020,
    eq. 7).
    """
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


@op
def relu_features(x: Float[Array, "B T H K"]) -> Float[Array, "B T H K"]:
    """Compute φ(x) = max(x, 0). Choromanski et al. 2021 (§4) found that this function worked best in their
    generalized attention.
    """
    return relu(x)


@op
def random_features(
    x: Float[Array, "B T H K"],
    projection: Float[Array, "Q K"],
) -> Float[Array, "B T H Q"]:
    """Compute φ(x) = exp(W x − |x|² / 2) / √Q, where W has Q standard normal rows (Choromanski et al.
    2021, lemma 1).

    The mean of φ(q)·φ(k) over W is exp(q·k). So linear attention estimates softmax attention, if q and k
    are scaled by K^(−1/4). Conventions: Performer's code subtracts a maximum to avoid overflow, and adds
    an ε. This function does neither. In float64 neither is needed, and ε would bias the estimate.
    """
    square = (x**2).sum(-1, keepdims=True) / 2
    return np.exp(x @ projection.T - square) * len(projection) ** -0.5


@op
def linear_attend(
    q: Float[Array, "B T H Q"],
    k: Float[Array, "B S G Q"],
    v: Float[Array, "B S G V"],
    keys: Bool[Array, "B S"] | None = None,
) -> Float[Array, "B T H V"]:
    """Compute linear attention over a whole text: Σ_s (q·k_s) v_s / Σ_s q·k_s, computed as q Σ_s k_s v_sᵀ
    / q·Σ_s k_s (Katharopoulos et al. 2020, eq. 5).

    q and k are features. `keys` says which keys are real; every query sees all real keys. Conventions: if
    q·Σ k is 0, the output is 0. ReLU features may give such a sum.
    """
    if keys is not None:
        k = np.where(keys[:, :, None, None], k, 0)
    state, norm = np.einsum("bsgq,bsgv->bgqv", k, v, optimize=True), k.sum(1)
    return _read(q, state[:, None], norm[:, None])


@op
def linear_parallel(
    q: Float[Array, "B T H Q"],
    k: Float[Array, "B T G Q"],
    v: Float[Array, "B T G V"],
) -> Float[Array, "B T H V"]:
    """Compute causal linear attention with the whole matrix of weights: ((q kᵀ) ∘ lower triangle) v, with
    normalized rows.
    """
    b, t, h, features = q.shape
    grouped = q.reshape(b, t, k.shape[2], h // k.shape[2], features)
    weights = np.einsum("btgrq,bsgq->bgrts", grouped, k, optimize=True) * np.tri(t, dtype=q.dtype)
    sums = np.einsum("bgrts,bsgv->btgrv", weights, v, optimize=True)
    return _normalized(sums, weights.sum(-1).transpose(0, 3, 1, 2)).reshape(b, t, h, v.shape[3])


@op
def linear_recurrent(
    q: Float[Array, "B T H Q"],
    k: Float[Array, "B T G Q"],
    v: Float[Array, "B T G V"],
    state: Float[Array, "B G Q V"],
    norm: Float[Array, "B G Q"],
) -> tuple[Float[Array, "B T H V"], Float[Array, "B G Q V"], Float[Array, "B G Q"]]:
    """Compute causal linear attention one token after the other (Katharopoulos et al. 2020, eq. 18 to 20).

    S_t = S_{t−1} + k_t v_tᵀ, z_t = z_{t−1} + k_t, out_t = q_t S_t / q_t·z_t. `state` and `norm` are S and
    z before the call; at the start of a text, they are zeros. Returns the outputs, and S and z after the
    call. S and z are a cache that doesn't grow.
    """
    out = np.zeros((*q.shape[:3], v.shape[3]), q.dtype)
    for t in range(q.shape[1]):
        state = state + k[:, t, :, :, None] * v[:, t, :, None, :]
        norm = norm + k[:, t]
        out[:, t] = _read(q[:, t, None], state[:, None], norm[:, None])[:, 0]
    return out, state, norm


@op
def linear_chunked(
    q: Float[Array, "B T H Q"],
    k: Float[Array, "B T G Q"],
    v: Float[Array, "B T G V"],
    state: Float[Array, "B G Q V"],
    norm: Float[Array, "B G Q"],
    *,
    chunk: int,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B G Q V"], Float[Array, "B G Q"]]:
    """Compute causal linear attention chunk by chunk. Within a chunk, the whole matrix of weights is used.
    From one chunk to the next, only the state S and the norm z of `linear_recurrent` are passed on.

    The time grows as T · chunk, and each chunk is one step (Hua et al. 2022, §3.4). With chunk = 1 this is
    the recurrent form, with chunk ≥ T the parallel form.
    """
    b, length, h, features = q.shape
    g = k.shape[2]
    out = np.zeros((b, length, g, h // g, v.shape[3]), q.dtype)
    grouped = q.reshape(b, length, g, h // g, features)
    for start in range(0, length, chunk):
        rows = slice(start, start + chunk)
        chunk_q, chunk_k, chunk_v = grouped[:, rows], k[:, rows], v[:, rows]
        weights = np.einsum("btgrq,bsgq->bgrts", chunk_q, chunk_k, optimize=True)
        weights = weights * np.tri(chunk_q.shape[1], dtype=q.dtype)
        sums = np.einsum("bgrts,bsgv->btgrv", weights, chunk_v, optimize=True)
        sums = sums + np.einsum("btgrq,bgqv->btgrv", chunk_q, state, optimize=True)
        total = weights.sum(-1).transpose(0, 3, 1, 2) + np.einsum("btgrq,bgq->btgr", chunk_q, norm)
        out[:, rows] = _normalized(sums, total)
        state = state + np.einsum("bsgq,bsgv->bgqv", chunk_k, chunk_v, optimize=True)
        norm = norm + chunk_k.sum(1)
    return out.reshape(b, length, h, v.shape[3]), state, norm


@op
def linear_attention(
    x: Float[Array, "B T D"],
    cache: LinearState,
    past: Index[Array, " B", "< O+1"],
    weights: LinearAttentionWeights,
    *,
    settings: LinearAttention,
) -> tuple[Float[Array, "B T D"], LinearState]:
    """Compute the sublayer of linear attention: project to queries, keys and values, continue
    `linear_recurrent` from the cache, and project back.

    Conventions: a row with no token before the call begins with sums of zero, whatever its cache contains.
    Padding adds nothing to the sums; outputs at padding are unspecified.
    """
    size = settings.head_size
    q = heads(x, weights["wq"], weights.get("bq"), size=size)
    k = heads(x, weights["wk"], weights.get("bk"), size=size)
    v = heads(x, weights["wv"], weights.get("bv"), size=size)
    y, cache = attend_from(q, k, v, cache, past, settings=settings)
    return linear(join_last(y), weights["wo"], weights.get("bo")), cache


def attend_from(
    q: Array, k: Array, v: Array, cache: LinearState, past: Array, *, settings: LinearAttention
) -> tuple[Array, LinearState]:
    """Continue `linear_recurrent` from a cache, with the features φ of queries [B, T, H, K] and keys [B,
    T, G, K]."""
    features = elu_features if settings.features == "elu" else relu_features
    q, k = features(q), features(k)
    if cache.lengths is not None:
        k = k * (indices(k.shape[1], past) < cache.lengths[:, None])[..., None, None]
    there = (past > 0)[:, None, None]
    state, norm = where(there[..., None], cache.state, 0), where(there, cache.norm, 0)
    y, state, norm = linear_recurrent(q, k, v, state, norm)
    return y, LinearState(state, norm)


def _read(q: Array, state: Array, norm: Array) -> Array:
    """Compute q S / q·z with grouped query heads. S and z [B, 1, G, Q, …] broadcast over the queries."""
    b, t, h, features = q.shape
    g = norm.shape[2]
    grouped = q.reshape(b, t, g, h // g, features)
    total = (grouped @ norm[..., None])[..., 0]
    return _normalized(grouped @ state, total).reshape(b, t, h, state.shape[-1])


def _normalized(sums: Array, total: Array) -> Array:
    return sums / np.where(total == 0, 1, total)[..., None]
