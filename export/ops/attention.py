"""Attention: every query takes a weighted mean of the values that it may see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import torch
from torch.nn import functional

from ...refimpl.config import Attention, LayerNorm, Norm
from ...refimpl.ops.attention import NO_TERMS, AttentionWeights, ScoreTerms
from ...refimpl.ops.cache import KVCache, append
from ...refimpl.ops.linear import linear
from ...refimpl.ops.mask import seen_by
from ...refimpl.ops.norm import layer_norm, rms_norm
from ...refimpl.ops.position import Rotary, query_factors, rotate
from ...refimpl.ops.quant import Blocks
from ...refimpl.ops.quantized_cache import round_by_channel
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index


class Norms(TypedDict):
    """The weights of the norms of queries and keys, of any layout of an attention sublayer."""

    q_norm: NotRequired[Float[Array, " K"] | Float[Array, "H K"] | Float[Array, " H*K"]]
    k_norm: NotRequired[Float[Array, " K"] | Float[Array, "G K"] | Float[Array, " G*K"]]


@torch_body
def softmax(
    scores: Float[Array, "B T S"],
    mask: Bool[Array, "B T S"] | None = None,
    sink: Float[Array, "B T 1"] | None = None,
) -> Float[Array, "B T S"]:
    """Softmax; the mask is applied before, as the lowest finite score, and after, as zero. A sink is one more
    column, which is cut off."""
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sink is None:
        weights = torch.softmax(scores, -1)
    else:
        weights = torch.softmax(torch.cat((scores, sink), -1), -1)[..., :-1]
    return weights if mask is None else weights.masked_fill(~mask, 0)


@torch_body
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
    """Query heads are split into an axis of groups and one of members; keys broadcast over the members."""
    size = q.shape[-1]
    q = q * (size**-0.5 if scale is None else scale)
    grouped = q.transpose(1, 2).unflatten(1, (k.shape[2], -1))
    scores = grouped @ k.permute(0, 2, 3, 1).unsqueeze(2)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.flatten(1, 2)
    if bias is not None:
        scores = scores + bias
    sink = None if sink_logits is None else sink_logits[:, None, None].expand(*scores.shape[:3], 1)
    return softmax(scores, None if mask is None else mask.unsqueeze(1), sink)


@torch_body
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
    """The heads of the weights are split like those of the queries; values broadcast over a group's
    members."""
    weights = attention_weights(q, k, mask, bias, sink_logits, scale=scale, softcap=softcap)
    grouped = weights.unflatten(1, (v.shape[2], -1)) @ v.transpose(1, 2).unsqueeze(2)
    return grouped.flatten(1, 2).transpose(1, 2)


@torch_body
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
    """In this order: rotary, rounding, cache write, mask, attention."""
    at = past[:, None] + torch.arange(q.shape[1], device=past.device)
    if rotary is not None:
        cos, sin = functional.embedding(at, rotary.cos), functional.embedding(at, rotary.sin)
        q = rotate(q, cos, sin, interleaved=settings.interleaved)
        k = rotate(k, cos, sin, interleaved=settings.interleaved)
    if cache.k_scale is not None and cache.v_scale is not None:
        k = round_by_channel(k, cache.k_scale, bits=8)
        v = round_by_channel(v, cache.v_scale, bits=8)
    cache = cache._replace(keys=append(cache.keys, k, past), values=append(cache.values, v, past))
    positions = torch.arange(cache.keys.shape[2], device=at.device)
    mask = seen_by(at, positions, settings=settings, causal=True)
    keys, values = cache.keys.transpose(1, 2), cache.values.transpose(1, 2)
    return attend(q, keys, values, mask, *terms, **settings.scoring), cache


@torch_body
def heads(x: Array, weight: Array | Blocks, bias: Array | None = None, *, size: int) -> Array:
    """A product, its last axis split."""
    return linear(x, weight, bias).unflatten(-1, (-1, size))


@torch_body
def project(x: Array, weights: AttentionWeights, *, settings: Attention) -> tuple[Array, Array, Array]:
    """Three products, or two, each clamped, split into heads and normalized where it has a norm."""

    def side(weight: Array | Blocks, bias: Array | None) -> Array:
        y = linear(x, weight, bias)
        return y if settings.clip is None else y.clamp(-settings.clip, settings.clip)

    q, k = side(weights["wq"], weights.get("bq")), side(weights["wk"], weights.get("bk"))
    v = side(weights["wv"], weights.get("bv")) if "wv" in weights else k
    q = split_heads(q, weights.get("q_norm"), settings=settings)
    k = split_heads(k, weights.get("k_norm"), settings=settings)
    return q, k, split_values(v, settings=settings)


def split_heads(y: Array, norm: Array | None = None, *, settings: Attention) -> Array:
    """The last axis as heads, normalized with the weight `norm` if there is one and no rotation is before."""
    if norm is None or settings.qk_norm is None or settings.qk_norm.rotated:
        return y.unflatten(-1, (-1, settings.head_size))
    return normalized_heads(y, norm, settings=settings)


def split_values(y: Array, *, settings: Attention) -> Array:
    """The last axis as heads of values, normalized where they have a norm."""
    y = y.unflatten(-1, (-1, settings.head_size))
    return y if settings.value_norm is None else rms_norm(y, eps=settings.value_norm.eps)


def normalized_heads(y: Array, weight: Array | None, *, settings: Attention) -> Array:
    """The last axis as heads, normalized over the last axis of the weight, without one over each head."""
    size, qk_norm = settings.head_size, settings.qk_norm
    assert qk_norm is not None
    width = size if weight is None else weight.shape[-1]
    y = _normalized(y.unflatten(-1, (-1, width)), weight, qk_norm.norm)
    return y if y.shape[-1] == size else y.flatten(-2).unflatten(-1, (-1, size))


def positioned(
    q: Array, k: Array, at: Array, norms: Norms, rotary: Rotary | None = None, *, settings: Attention
) -> tuple[Array, Array, Rotary | None]:
    """Heads [B, T, H, K] at the positions `at` [B, T], with the norms that follow a rotation."""
    if settings.qk_norm is not None and settings.qk_norm.rotated:
        if rotary is not None:
            cos, sin = functional.embedding(at, rotary.cos), functional.embedding(at, rotary.sin)
            rotary = None
            q = rotate(q, cos, sin, interleaved=settings.interleaved)
            k = rotate(k, cos, sin, interleaved=settings.interleaved)
        q = normalized_heads(q.flatten(-2), norms.get("q_norm"), settings=settings)
        k = normalized_heads(k.flatten(-2), norms.get("k_norm"), settings=settings)
    if (scale := settings.query_scale) is not None:
        factors = query_factors(at, **scale.settings)
        q = q * factors.to(q.dtype).unsqueeze(-1).unsqueeze(-1)
    return q, k, rotary


def _normalized(y: Array, weight: Array | None, norm: Norm) -> Array:
    """A norm over the last axis; a weight for each head follows as a product."""
    function = layer_norm if isinstance(norm, LayerNorm) else rms_norm
    if weight is None or weight.ndim == 1:
        return function(y, weight, eps=norm.eps)
    return function(y, eps=norm.eps) * weight


@torch_body
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
    """Projections around `cached_attention`."""
    q, k, v = project(x, weights, settings=settings)
    at = past[:, None] + torch.arange(x.shape[1], device=past.device)
    q, k, rotary = positioned(q, k, at, weights, rotary, settings=settings)
    terms = ScoreTerms(bias, weights.get("sink_logits"))
    y, cache = cached_attention(q, k, v, cache, past, rotary, terms, settings=settings)
    return linear(
        from_heads(y.flatten(-2), x, weights, settings=settings), weights["wo"], weights.get("bo")
    ), cache


@torch_body
def from_heads(y: Array, x: Array, weights: Mapping[str, Any], *, settings: Attention) -> Array:
    """Products with sigmoids, where there are gates, whose maps are whatever `linear` takes, or a norm."""
    if "wg" in weights:
        y = y * torch.sigmoid(linear(x, weights["wg"], weights.get("bg")))
    if "w_head_gate" in weights:
        gate = torch.sigmoid(linear(x, weights["w_head_gate"]))
        y = (y.unflatten(-1, (gate.shape[-1], -1)) * gate.unsqueeze(-1)).flatten(-2)
    if settings.out_norm is not None:
        y = rms_norm(y, weights["out_norm"], eps=settings.out_norm.eps)
    return y
