"""Attention: the result of each query is a weighted mean of the values that the mask lets the query see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from ..config import Attention, LayerNorm, Norm
from ..config.token_mixers import KV_BITS
from .activation import sigmoid
from .arrays import as_type, following, indices, join_last, softplus, split_last
from .cache import KVCache, append
from .dispatch import observe, op
from .linear import linear
from .mask import seen_by
from .norm import layer_norm, rms_norm
from .position import Rotary, query_factors, rotate
from .quant import Blocks
from .quantized_cache import hadamard, round_by_channel

if TYPE_CHECKING:
    from ..axes import Array, Bool, Float, Index


class AttentionWeights(TypedDict):
    """The parameters of an attention sublayer: projections with their biases, norms of queries and keys,
    sinks, and the gates or the norm of the output.

    The setting `qk_norm` determines the shape of `q_norm` and `k_norm`: one weight [K] for all heads (Qwen
    3, Gemma 3), one weight for each head [H, K] (Cohere), or one weight over all heads of a token [H·K]
    (OLMo 2). If keys also serve as values, there is no `wv`.
    """

    wq: Float[Array, "D H*K"] | Blocks
    wk: Float[Array, "D G*K"] | Blocks
    wv: NotRequired[Float[Array, "D G*K"] | Blocks]
    wo: Float[Array, "H*K D"] | Blocks
    bq: NotRequired[Float[Array, " H*K"]]
    bk: NotRequired[Float[Array, " G*K"]]
    bv: NotRequired[Float[Array, " G*K"]]
    bo: NotRequired[Float[Array, " D"]]
    q_norm: NotRequired[Float[Array, " K"] | Float[Array, "H K"] | Float[Array, " H*K"]]
    k_norm: NotRequired[Float[Array, " K"] | Float[Array, "G K"] | Float[Array, " G*K"]]
    sink_logits: NotRequired[Float[Array, " H"]]
    wg: NotRequired[Float[Array, "D H*K"] | Blocks]
    bg: NotRequired[Float[Array, " H*K"]]
    w_head_gate: NotRequired[Float[Array, "D H"] | Blocks]
    out_norm: NotRequired[Float[Array, " H*K"]]


class CachedAttentionWeights(AttentionWeights, TypedDict):
    """The parameters of attention in a layer. If the layer has its own table of relative biases
    (`RelativeBias`), the parameters include that table.

    In a decoder whose cache stores integer codes, they also include the scales of keys and values.
    """

    relative_bias: NotRequired[Float[Array, "W H"]]
    k_scale: NotRequired[Float[Array, "G K"]]
    v_scale: NotRequired[Float[Array, "G K"]]


class ScoreTerms(NamedTuple):
    """The terms of a softmax besides the products of queries and keys: biases, which are added to the
    products, and sinks.
    """

    bias: Float[Array, "B H T L"] | None = None
    sink_logits: Float[Array, " H"] | None = None


NO_TERMS = ScoreTerms()


@op
def softmax(
    scores: Float[Array, "B T S"],
    mask: Bool[Array, "B T S"] | None = None,
    sink: Float[Array, "B T 1"] | None = None,
) -> Float[Array, "B T S"]:
    """Return exp(score) / Σ_s exp(score_s), where the sum includes only the keys that the mask allows.
    Without a mask, all keys are allowed.

    With a `sink`, the result is exp(score) / (exp(sink) + Σ_s exp(score_s)). The sink is an additional
    score, and its weight is dropped (gpt-oss, OpenAI 2025, §2.2). With a sink of 0, this is "softmax off
    by one" (Miller 2023).

    Conventions: to prevent overflow, the maximum of the row and its sink is subtracted first. A row
    without any allowed key gives zeros instead of NaN.
    """
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    top = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
    if sink is not None:
        top = np.maximum(top, sink)
    top = np.where(np.isfinite(top), top, 0)
    weights = np.exp(scores - top)
    total = np.sum(weights, axis=-1, keepdims=True)
    if sink is not None:
        total = total + np.exp(sink - top)
    return weights / np.where(total == 0, 1, total)


@op
def attention_weights(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    mask: Bool[Array, "B T S"] | None = None,
    bias: Float[Array, "B H T S"] | None = None,
    sink_logits: Float[Array, " H"] | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "B H T S"]:
    r"""Return the weights softmax(scale · q kᵀ + bias) for each query head (Vaswani et al. 2017, eq. 1).

    Head h reads key head h // R, with R = H / G (grouped-query attention, Ainslie et al. 2023):

        query heads   0   1   2   3   4   5      H = 6
                       \  |  /     \  |  /
        key heads         0           1          G = 2, R = 3

    Weights sum to 1. So a head that finds nothing relevant must still attend to something, and learns to
    attend to the first token. A sink is a learned logit of each head. It takes a part of the sum, and no
    value is added for it:

        scores      2.0   0.0   1.0  | sink 3.0       exp   7.4   1.0   2.7  | 20.1      sum 31.2
        weights     0.24  0.03  0.09 | 0.64 dropped   sum 0.36: the output is that much smaller

    Conventions: a scale of None means 1/√K. The order is scale, soft cap, bias, mask. The cap, cap ·
    tanh(score / cap), bounds the products of queries and keys, but not the bias. If the cap came after the
    mask, it would turn −∞ into −cap, and masked keys would be seen. ONNX's Attention uses the same order;
    its float mask is the bias.
    """
    b, t, h, size = q.shape
    g = k.shape[2]
    # [B, G, R·T, K] @ [B, G, K, S]: the R query heads of a group share one product.
    grouped = q.reshape(b, t, g, h // g, size).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(b, g, h // g * t, size)
    scores = grouped @ k.transpose(0, 2, 3, 1) * (size**-0.5 if scale is None else scale)
    scores = scores.reshape(b, h, t, k.shape[1])
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    sink = None if sink_logits is None else np.broadcast_to(sink_logits[:, None, None], (b, h, t, 1))
    return softmax(scores, None if mask is None else mask[:, None], sink)


@op
def attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G V"],
    mask: Bool[Array, "B T S"] | None = None,
    bias: Float[Array, "B H T S"] | None = None,
    sink_logits: Float[Array, " H"] | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "B T H V"]:
    """Return Σ_s weights[s] · v[s] for each head, with the weights that `attention_weights` computes."""
    weights = attention_weights(q, k, mask, bias, sink_logits, scale=scale, softcap=softcap)
    b, h, t, s = weights.shape
    g = v.shape[2]
    grouped = weights.reshape(b, g, h // g * t, s) @ v.transpose(0, 2, 1, 3)
    return grouped.reshape(b, h, t, v.shape[3]).transpose(0, 2, 1, 3)


@op
def cached_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G K"],
    cache: KVCache,
    past: Index[Array, " B", "< O+1"],
    rotary: Rotary | None = None,
    terms: ScoreTerms = NO_TERMS,
    *,
    settings: Attention,
) -> tuple[Float[Array, "B T H K"], KVCache]:
    """Compute rotary positions, cache write, causal mask and attention in one op, as fused kernels do.
    Returns the attention's output and the new cache.

    The cache contains `past[b]` tokens of row b. So token t of the call is at position past[b] + t. The
    token sees the keys up to its own position that `settings.mask` allows.

    A cache with scales stores keys and values rounded to 8 or 4 bits (`round_by_channel`), and the call
    uses the rounded numbers. The same is true of a cache in float16, to which `append` rounds. In 4 bits
    the cache stores values that `hadamard` rotated, and the means of these values are rotated back.

    Conventions: keys are rotated by their positions before they are rounded and cached. Scores are in the
    queries' type. A bias has a number for each position of the cache. A row that is padded on the right
    needs no mask, since a real token never sees later positions. Outputs at padding are unspecified, and
    so are cache entries past a row's valid length. `append` says how much room the cache must have.
    """
    at = following(past, q.shape[1])
    q, cache = written(q, k, v, cache, past, rotary, settings=settings)
    mask = seen_by(at, indices(cache.capacity, at), settings=settings, causal=True)
    keys, values = (as_type(a.swapaxes(1, 2), q.dtype) for a in (cache.keys, cache.values))
    y = attend(q, keys, values, mask, *terms, **settings.scoring)
    return rotated_values(y, settings=settings), cache


def written(
    q: Array, k: Array, v: Array, cache: KVCache, past: Array, rotary: Rotary | None, *, settings: Attention
) -> tuple[Array, KVCache]:
    """Return the rotated queries, and the cache after the rotated keys and the values were written to it."""
    if rotary is not None:
        cos, sin = rotary.at(following(past, q.shape[1]))
        q = rotate(q, cos, sin, interleaved=settings.interleaved)
        k = rotate(k, cos, sin, interleaved=settings.interleaved)
    if cache.k_scale is not None and cache.v_scale is not None:
        bits = KV_BITS[settings.kv]
        v = rotated_values(v, settings=settings)
        k = round_by_channel(k, cache.k_scale, bits=bits)
        v = round_by_channel(v, cache.v_scale, bits=bits)
    return q, cache._replace(keys=append(cache.keys, k, past), values=append(cache.values, v, past))


def rotated_values(v: Array, *, settings: Attention) -> Array:
    """Rotate values, or means of values, with `hadamard` if the cache stores rotated values. Otherwise
    return them unchanged. A second call undoes the rotation.
    """
    return hadamard(v) if settings.rotates_values else v


@op
def heads(x: Array, weight: Array | Blocks, bias: Array | None = None, *, size: int) -> Array:
    """Apply a linear map to x [B, T, D], and split the result into heads [B, T, H, K] of `size`."""
    return split_last(linear(x, weight, bias), size)


@op
def project(x: Array, weights: AttentionWeights, *, settings: Attention) -> tuple[Array, Array, Array]:
    """Return the queries [B, T, H, K], keys and values [B, T, G, K] that the maps make of x [B, T, D],
    before norms and rotations (`positioned`).
    """

    def side(weight: Array | Blocks, bias: Array | None) -> Array:
        y, clip = linear(x, weight, bias), settings.clip
        return y if clip is None else y.clip(-clip, clip)

    q, k = side(weights["wq"], weights.get("bq")), side(weights["wk"], weights.get("bk"))
    v = k
    if not settings.keys_as_values:
        assert "wv" in weights
        v = side(weights["wv"], weights.get("bv"))
    q = split_heads(q, weights.get("q_norm"), settings=settings)
    k = split_heads(k, weights.get("k_norm"), settings=settings)
    return q, k, split_values(v, settings=settings)


def split_heads(y: Array, weight: Array | None, *, settings: Attention) -> Array:
    """Split the output [B, T, H·K] of a map into heads, and normalize the heads. If the settings rotate
    before the norm, the heads are only split.
    """
    if settings.qk_norm is None or settings.qk_norm.rotated:
        return split_last(y, settings.head_size)
    return normalized(y, weight, settings=settings)


def split_values(y: Array, *, settings: Attention) -> Array:
    """Split the output [B, T, G·K] of a map into heads of values. Normalize the values if the settings say
    so.
    """
    y = split_last(y, settings.head_size)
    return y if settings.value_norm is None else rms_norm(y, eps=settings.value_norm.eps)


def positioned(
    q: Array,
    k: Array,
    at: Array,
    weights: Mapping[str, Any],
    rotary: Rotary | None = None,
    *,
    settings: Attention,
) -> tuple[Array, Array, Rotary | None]:
    """Return queries and keys at the positions `at` [B, T], and the rotation that the caller still has to
    apply.

    If the norm comes after the rotation (Hunyuan), this function rotates and normalizes. Queries may be
    multiplied by their factors before the rotation: a factor is a single number and a rotation is linear,
    so the order doesn't matter.
    """
    norm = settings.qk_norm
    if norm is not None and norm.rotated:
        if rotary is not None:
            (cos, sin), rotary = rotary.at(at), None
            q = rotate(q, cos, sin, interleaved=settings.interleaved)
            k = rotate(k, cos, sin, interleaved=settings.interleaved)
        q = normalized(join_last(q), weights.get("q_norm"), settings=settings)
        k = normalized(join_last(k), weights.get("k_norm"), settings=settings)
    if (scale := settings.query_scale) is not None:
        factors = query_factors(at, **scale.settings)
        q = q * as_type(factors, q.dtype)[:, :, None, None]
    return q, k, rotary


def normalized(y: Array, weight: Array | None, *, settings: Attention) -> Array:
    """Return y [B, T, H·K] as normalized heads [B, T, H, K]. The weight's last axis says what is
    normalized together: each head alone, or all heads of a token."""
    qk_norm, size = settings.qk_norm, settings.head_size
    assert qk_norm is not None
    width = size if weight is None else weight.shape[-1]
    y = _norm_of_heads(split_last(y, width), weight, qk_norm.norm)
    return y if width == size else split_last(join_last(y), size)


def _norm_of_heads(y: Array, weight: Array | None, norm: Norm) -> Array:
    """Normalize over the last axis and multiply by the weight, which may be one [H, K] with a row for each
    head.
    """
    assert norm.eps is not None
    function = layer_norm if isinstance(norm, LayerNorm) else rms_norm
    if weight is None or weight.ndim == 1:
        return function(y, weight, eps=norm.eps)
    return function(y, eps=norm.eps) * weight


@op
def attention(
    x: Float[Array, "B T D"],
    cache: KVCache,
    past: Index[Array, " B", "< O+1"],
    weights: AttentionWeights,
    rotary: Rotary | None = None,
    bias: Float[Array, "B H T L"] | None = None,
    *,
    settings: Attention,
) -> tuple[Float[Array, "B T D"], KVCache]:
    """Compute the attention sublayer: project to queries, keys and values, attend over the cache, and
    project back. Returns the output and the new cache.

    Conventions: `settings.clip` bounds queries, keys and values (MPT). Then queries and keys are
    normalized (`q_norm`, `k_norm`) and rotated, or first rotated and then normalized. Queries are
    multiplied by the factors of their positions.

    A gate, σ(x wg + bg), multiplies the outputs of the heads. With a gate, a head can output nothing, and
    then doesn't need a token to attend to (Qiu et al. 2025, Gated Attention). A gate of one number for
    each head, σ(x w_head_gate), multiplies the whole output of that head (LFM3, Liquid AI 2026). With
    softplus instead of σ, such a gate can also amplify (Laguna, Poolside 2026). Instead of gates,
    `settings.out_norm` normalizes the outputs of all heads of a token together, so that they can be stored
    in few bits (BitNet b1.58, Ma et al. 2025, "BitNet b1.58 2B4T Technical Report", arXiv 2504.12285, §2).

    `settings.value_norm` scales each head's values to length √K. This norm has no weight, since the maps
    before and after it could include one. With `settings.keys_as_values`, one map makes both keys and
    values (Gemma 4, Google 2026):

        x ── wk ──┬── norm with a weight ── rotation ── keys
                  └── norm without a weight ─────────── values

    Then the same numbers determine how much attention a token gets and what is read from it. One map less
    is stored and computed. The cache isn't smaller, because keys are rotated and values aren't.
    """
    q, k, v = project(x, weights, settings=settings)
    q, k, rotary = positioned(q, k, following(past, x.shape[1]), weights, rotary, settings=settings)
    terms = ScoreTerms(bias, weights.get("sink_logits"))
    y, cache = cached_attention(q, k, v, cache, past, rotary, terms, settings=settings)
    y = observe("attention, heads", from_heads(join_last(y), x, weights, settings=settings))
    return linear(y, weights["wo"], weights.get("bo")), cache


@op
def from_heads(y: Array, x: Array, weights: Mapping[str, Any], *, settings: Attention) -> Array:
    """Scale the heads' outputs [B, T, H·K]. Then multiply them by gates, or normalize them, as the
    settings say.
    """
    opened = softplus if settings.softplus_gate else sigmoid
    if settings.value_scale is not None:
        y = y * settings.value_scale
    if "wg" in weights:
        y = y * opened(linear(x, weights["wg"], weights.get("bg")))
    if "w_head_gate" in weights:
        gate = opened(linear(x, weights["w_head_gate"]))
        y = join_last(split_last(y, y.shape[-1] // gate.shape[-1]) * gate[..., None])
    if settings.out_norm is not None:
        y = rms_norm(y, weights["out_norm"], eps=settings.out_norm.eps)
    return y
