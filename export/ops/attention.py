"""Attention: every query takes a weighted mean of the values that it may see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional

from ..dispatch import seam
from .cache import append
from .linear import linear
from .mask import causal_mask
from .norm import layer_norm, rms_norm
from .position import rotate
from .quant import Blocks
from .quantized_cache import round_by_channel

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor as Array

    from ...refimpl.axes import Index

__all__ = ["attend", "attention", "attention_weights", "cached_attention", "softmax"]


@seam
def softmax(
    scores: Float[Array, "B T S"],
    mask: Bool[Array, "B T S"] | None = None,
) -> Float[Array, "B T S"]:
    """Softmax; the mask is applied before, as the lowest finite score, and after, as zero."""
    if mask is None:
        return torch.softmax(scores, -1)
    lowest = torch.finfo(scores.dtype).min
    weights = torch.softmax(scores.masked_fill(~mask, lowest), -1)
    return weights.masked_fill(~mask, 0)


def attention_weights(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    mask: Bool[Array, "B T S"] | None = None,
    bias: Float[Array, "B H T S"] | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "B H T S"]:
    """Query heads split into an axis of groups and one of members; keys broadcast over the second."""
    size = q.shape[-1]
    q = q * (size**-0.5 if scale is None else scale)
    grouped = q.transpose(1, 2).unflatten(1, (k.shape[2], -1))
    scores = grouped @ k.permute(0, 2, 3, 1).unsqueeze(2)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.flatten(1, 2)
    if bias is not None:
        scores = scores + bias
    return softmax(scores, None if mask is None else mask.unsqueeze(1))


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
    """The weights' heads split as the queries' were; values broadcast over a group's members."""
    weights = attention_weights(q, k, mask, bias, scale=scale, softcap=softcap)
    grouped = weights.unflatten(1, (v.shape[2], -1)) @ v.transpose(1, 2).unsqueeze(2)
    return grouped.flatten(1, 2).transpose(1, 2)


@seam
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
    """The parts, one after the other: rotary, rounding, cache write, mask, attention."""
    at = past[:, None] + torch.arange(q.shape[1], device=past.device)
    if cos is not None and sin is not None:
        c, s = functional.embedding(at, cos), functional.embedding(at, sin)
        q = rotate(q, c, s, interleaved=interleaved)
        k = rotate(k, c, s, interleaved=interleaved)
    if k_scale is not None and v_scale is not None:
        k, v = round_by_channel(k, k_scale, bits=8), round_by_channel(v, v_scale, bits=8)
    k_cache, v_cache = append(past_k, k, past), append(past_v, v, past)
    mask = causal_mask(at, torch.arange(k_cache.shape[2], device=at.device), window=window)
    keys, values = k_cache.transpose(1, 2), v_cache.transpose(1, 2)
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
    """A product, clamped, its last axis split."""
    y = linear(x, weight, bias)
    if clip is not None:
        y = y.clamp(-clip, clip)
    return y.unflatten(-1, (-1, size)) if norm is None else normed(y, norm, size=size, kind=kind, eps=eps)


def normed(y: Array, norm: Array, *, size: int, kind: Literal["rms", "layer"], eps: float) -> Array:
    """The last axis split as the norm has it, then as heads; a weight a head follows as a product."""
    function = rms_norm if kind == "rms" else layer_norm
    y = y.unflatten(-1, (-1, norm.shape[-1]))
    y = function(y, norm, eps=eps) if norm.ndim == 1 else function(y, eps=eps) * norm
    return y if y.shape[-1] == size else y.flatten(-2).unflatten(-1, (-1, size))


@seam
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
    """Projections around `cached_attention`."""
    size = past_k.shape[3]
    q = heads(x, wq, bq, q_norm, clip=clip, kind=norm_kind, eps=norm_eps, size=size)
    k = heads(x, wk, bk, k_norm, clip=clip, kind=norm_kind, eps=norm_eps, size=size)
    v = heads(x, wv, bv, clip=clip, size=size)
    y, k_cache, v_cache = cached_attention(
        q, k, v, past_k, past_v, past, cos, sin, bias, k_scale, v_scale,
        window=window, scale=scale, softcap=softcap, interleaved=interleaved,
    )  # fmt: skip
    return linear(y.flatten(-2), wo, bo), k_cache, v_cache
