"""Attention of a layer that reads the keys and values of an earlier layer, and makes no keys and values
itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

from ..config import Attention
from .arrays import as_type, following, indices, join_last
from .attention import attend, from_heads, normalized, rotated_values, split_heads
from .cache import KVCache
from .dispatch import observe, op
from .linear import linear
from .mask import seen_by
from .position import Rotary, query_factors, rotate
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class SharedAttentionWeights(TypedDict):
    """The parameters of attention without maps to keys and values. They belong to the queries, to the
    output, and to the output's gate."""

    wq: Float[Array, "D H*K"] | Blocks
    wo: Float[Array, "H*K D"] | Blocks
    bq: NotRequired[Float[Array, " H*K"]]
    bo: NotRequired[Float[Array, " D"]]
    q_norm: NotRequired[Float[Array, " K"] | Float[Array, "H K"] | Float[Array, " H*K"]]
    sink_logits: NotRequired[Float[Array, " H"]]
    wg: NotRequired[Float[Array, "D H*K"] | Blocks]
    bg: NotRequired[Float[Array, " H*K"]]
    w_head_gate: NotRequired[Float[Array, "D H"] | Blocks]
    out_norm: NotRequired[Float[Array, " H*K"]]


class SharedKV(NamedTuple):
    """The cache of a layer that reads another layer's keys and values. This cache is empty."""

    @property
    def nbytes(self) -> int:
        """The size of the cache in bytes, which is 0."""
        return 0

    def select(self, rows: Array) -> SharedKV:
        """Return the cache unchanged, since it is empty. The rows are selected in the cache of the earlier
        layer.
        """
        return self

    def grow(self, capacity: int) -> SharedKV:
        """Return the cache unchanged, since it is empty. The cache of the earlier layer is made larger
        instead.
        """
        return self


@op
def shared_attention(
    x: Float[Array, "B T D"],
    cache: KVCache,
    past: Index[Array, " B", "< O+1"],
    weights: SharedAttentionWeights,
    rotary: Rotary | None = None,
    *,
    settings: Attention,
) -> Float[Array, "B T D"]:
    """Compute attention with the keys k and values v of an earlier layer: y_t = Σ_s softmax_s(scale · q_t
    · k_s) · v_s · wo.

    Such a layer has no maps to keys and values, and no cache. Neighbouring layers attend to nearly the
    same tokens. So upper layers can read the keys and values that a lower layer has written (YOCO, Sun et
    al. 2024, §2; cross-layer attention, Brandon et al. 2024, §2.2; Gemma 3n and 4, Google 2025 and 2026):

        layer   0      1      2      3      4      5       3, 4 and 5 share: kv_layer 1, 1, 2
        window  w      w      all    w      w      all
        stores  k0 v0  k1 v1  k2 v2  .      .      .
                       └──────┼───── q3     q4     │
                              └─────────────────── q5

    The cache of a text becomes smaller, since only some layers have one. In a prompt, all tokens but the
    last may skip the layers above the last layer with a cache, since no later token reads what those
    layers compute.

    Conventions: `cache` already has the keys and values of the call's own T tokens, as the earlier layer
    returned it. This function doesn't change the cache. `past`, `rotary` and the mask have the same
    meaning as in `attention`. The keys in the cache are normalized and rotated, so only queries are
    normalized and rotated here. A layer can read only a layer with the same key heads, window and
    rotation, since the keys are made for these.
    """
    at = following(past, x.shape[1])
    y = linear(x, weights["wq"], weights.get("bq"))
    q = queries(y, at, weights.get("q_norm"), rotary, settings=settings)
    keys, values = (as_type(a.swapaxes(1, 2), q.dtype) for a in (cache.keys, cache.values))
    mask = seen_by(at, indices(cache.capacity, at), settings=settings, causal=True)
    y = attend(q, keys, values, mask, None, weights.get("sink_logits"), **settings.scoring)
    y = join_last(rotated_values(y, settings=settings))
    y = observe("attention, heads", from_heads(y, x, weights, settings=settings))
    return linear(y, weights["wo"], weights.get("bo"))


def queries(
    y: Array, at: Array, weight: Array | None, rotary: Rotary | None, *, settings: Attention
) -> Array:
    """Return queries as heads at the positions `at` [B, T], made from the result [B, T, H·K] of the map to
    queries.

    The queries are normalized, with a weight if there is one, and rotated.
    """
    clip, norm = settings.clip, settings.qk_norm
    q = split_heads(y if clip is None else y.clip(-clip, clip), weight, settings=settings)
    if rotary is not None:
        cos, sin = rotary.at(at)
        q = rotate(q, cos, sin, interleaved=settings.interleaved)
    if norm is not None and norm.rotated:
        q = normalized(join_last(q), weight, settings=settings)
    if (scale := settings.query_scale) is not None:
        q = q * as_type(query_factors(at, **scale.settings), q.dtype)[:, :, None, None]
    return q
