"""Attention: every query takes a weighted mean of the values that it may see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from .cache import append
from .linear import linear
from .mask import causal_mask
from .norm import layer_norm, rms_norm
from .position import rotate
from .quant import Blocks
from .quantized_cache import round_by_channel

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array

    from ..axes import Index

__all__ = ["attend", "attention", "attention_weights", "cached_attention", "softmax"]


def softmax(
    scores: Float[Array, "B T S"],
    mask: Bool[Array, "B T S"] | None = None,
) -> Float[Array, "B T S"]:
    """exp(score) / Σ_s exp(score) over the keys that the mask allows (all without one).

    Conventions: the row's maximum is subtracted first, which changes nothing but overflow. A row
    with no allowed key gives zeros, not NaN: a token that may see nothing receives nothing.
    """
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    top = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = np.sum(weights, axis=-1, keepdims=True)
    return weights / np.where(total == 0, 1, total)


def attention_weights(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    mask: Bool[Array, "B T S"] | None = None,
    bias: Float[Array, "B H T S"] | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "B H T S"]:
    """softmax(scale · q kᵀ + bias), for each query head (Vaswani et al. 2017, eq. 1).

    Head h reads key head h // R, R = H / G (grouped-query attention, Ainslie et al. 2023).
    Conventions: scale None is 1/√K. The order is scale, soft cap, bias, mask. The cap,
    cap · tanh(score / cap), bounds what queries and keys say, not what positions add; after the mask,
    it would make −cap of −∞ and leak. ONNX's Attention takes the bias as a float mask, in this order too.
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
    return softmax(scores, None if mask is None else mask[:, None])


def attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G V"],
    mask: Bool[Array, "B T S"] | None = None,
    bias: Float[Array, "B H T S"] | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "B T H V"]:
    """Σ_s weights[s] · v[s], head by head, with the weights of `attention_weights`."""
    weights = attention_weights(q, k, mask, bias, scale=scale, softcap=softcap)
    b, h, t, s = weights.shape
    g = v.shape[2]
    grouped = weights.reshape(b, g, h // g * t, s) @ v.transpose(0, 2, 1, 3)
    return grouped.reshape(b, h, t, v.shape[3]).transpose(0, 2, 1, 3)


def cached_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G K"],
    past_k: Float[Array, "B G L K"],
    past_v: Float[Array, "B G L K"],
    past: Index[Array, " B", "< O+1"],
    cos: Float[Array, "L J"] | None = None,
    sin: Float[Array, "L J"] | None = None,
    bias: Float[Array, "B H T L"] | None = None,
    k_scale: Float[Array, "G K"] | None = None,
    v_scale: Float[Array, "G K"] | None = None,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    interleaved: bool = False,
) -> tuple[Float[Array, "B T H K"], Float[Array, "B G L K"], Float[Array, "B G L K"]]:
    """Rotary, cache write, causal mask and attention in one: the edges of the fused kernels.

    `past[b]` tokens of row b are in the cache; token t of the call stands at past[b] + t and sees
    the keys up to itself. Gives the attention's output and the two new caches. With `k_scale` and `v_scale`
    these hold what 8 bits a channel keep (`round_by_channel`), and the call sees them so.
    Conventions: keys are cached, and rounded, after the rotation; `bias` has a number for each place of the
    cache. A row padded on the right needs no mask, since a real token never sees a later one; what comes out
    at padding is unspecified, and so are cache rows past a row's valid length. `append` says what the
    capacity must hold.
    """
    at = past[:, None] + np.arange(q.shape[1])[None, :]
    if cos is not None and sin is not None:
        q = rotate(q, cos[at], sin[at], interleaved=interleaved)
        k = rotate(k, cos[at], sin[at], interleaved=interleaved)
    if k_scale is not None and v_scale is not None:
        k, v = round_by_channel(k, k_scale, bits=8), round_by_channel(v, v_scale, bits=8)
    k_cache, v_cache = append(past_k, k, past), append(past_v, v, past)
    mask = causal_mask(at, np.arange(k_cache.shape[2]), window=window)
    keys, values = k_cache.transpose(0, 2, 1, 3), v_cache.transpose(0, 2, 1, 3)
    return attend(q, keys, values, mask, bias, scale=scale, softcap=softcap), k_cache, v_cache


def heads(
    x: Array,
    weight: Array | Blocks,
    bias: Array | None,
    norm: Array | None = None,
    *,
    size: int,
    clip: float | None = None,
    kind: Literal["rms", "layer"] = "rms",
    eps: float = 0,
) -> Array:
    """Queries, keys or values [B, T, H, K] of x [B, T, D]: projected, bounded to ± clip, normalized.

    Conventions: a norm's last axis is what it is over: a head with a weight [K] for all or [H, K] for
    each, all heads of a token with a weight [H·K].
    """
    y = linear(x, weight, bias)
    y = y if clip is None else np.clip(y, -clip, clip)
    if norm is not None:
        y = y.reshape(*x.shape[:2], -1, norm.shape[-1])
        y = rms_norm(y, norm, eps=eps) if kind == "rms" else layer_norm(y, norm, eps=eps)
    return y.reshape(*x.shape[:2], -1, size)


def attention(
    x: Float[Array, "B T D"],
    past_k: Float[Array, "B G L K"],
    past_v: Float[Array, "B G L K"],
    past: Index[Array, " B", "< O+1"],
    wq: Float[Array, "D H*K"] | Blocks,
    wk: Float[Array, "D G*K"] | Blocks,
    wv: Float[Array, "D G*K"] | Blocks,
    wo: Float[Array, "H*K D"] | Blocks,
    bq: Float[Array, " H*K"] | None = None,
    bk: Float[Array, " G*K"] | None = None,
    bv: Float[Array, " G*K"] | None = None,
    bo: Float[Array, " D"] | None = None,
    q_norm: Float[Array, " K"] | Float[Array, "H K"] | Float[Array, " H*K"] | None = None,
    k_norm: Float[Array, " K"] | Float[Array, "G K"] | Float[Array, " G*K"] | None = None,
    cos: Float[Array, "L J"] | None = None,
    sin: Float[Array, "L J"] | None = None,
    bias: Float[Array, "B H T L"] | None = None,
    k_scale: Float[Array, "G K"] | None = None,
    v_scale: Float[Array, "G K"] | None = None,
    *,
    norm_eps: float = 1e-6,
    norm_kind: Literal["rms", "layer"] = "rms",
    clip: float | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    interleaved: bool = False,
) -> tuple[Float[Array, "B T D"], Float[Array, "B G L K"], Float[Array, "B G L K"]]:
    """The attention sublayer: project to queries, keys, values; attend over the cache; project back.

    Conventions: queries and keys are normalized (`q_norm`, `k_norm`) before the rotation: each head
    with one weight [K] (Qwen 3, Gemma 3) or its own [H, K] (Cohere), or all heads of a token together
    with a weight [H·K] (OLMo 2). `clip` bounds queries, keys and values before that (MPT). Head
    counts are read off the shapes.
    """
    b, t, _ = x.shape
    size = past_k.shape[3]
    q = heads(x, wq, bq, q_norm, clip=clip, kind=norm_kind, eps=norm_eps, size=size)
    k = heads(x, wk, bk, k_norm, clip=clip, kind=norm_kind, eps=norm_eps, size=size)
    v = heads(x, wv, bv, clip=clip, size=size)
    y, k_cache, v_cache = cached_attention(
        q, k, v, past_k, past_v, past, cos, sin, bias, k_scale, v_scale,
        window=window, scale=scale, softcap=softcap, interleaved=interleaved,
    )  # fmt: skip
    return linear(y.reshape(b, t, -1), wo, bo), k_cache, v_cache
