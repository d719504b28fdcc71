"""Compute attention over a whole text with ONNX Runtime's MultiHeadAttention. This is an encoder's
self-attention or a decoder's cross-attention.

The operator hides keys by adding a large negative number to their scores. The number is finite (`hidden`), so
that a query without visible keys gives a mean instead of NaN. NaN would spread to neighbouring tokens in the
next layer.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from torch.onnx import ops as onnx

from ...refimpl.config import Attention, BigBirdBlocks, FullAttention
from ...refimpl.ops.attention import attend, from_heads, positioned, split_heads, split_values
from ...refimpl.ops.bigbird import bigbird_attend
from ...refimpl.ops.cross_attention import EncoderKV
from ...refimpl.ops.mask import padding_mask, seen_by
from ...refimpl.ops.position import Rotary, rotate
from .group_query_attention import AttentionLeaves, three_products
from .ort_ops import MICROSOFT, Leaf, bounded, linear

HIDDEN = -1e30


def hidden(dtype: torch.dtype) -> float:
    """Return the number that is added to a score to hide a key. The sum stays finite in the type, even if
    padding and a window both add the number.
    """
    return max(HIDDEN, torch.finfo(dtype).min / 2)


class CrossKeyLeaves(TypedDict):
    """The parameters that map an encoder's output to keys and values, as this target stores them: one joined
    matrix, or two matrices.
    """

    wkv: NotRequired[Leaf]
    wk: NotRequired[Leaf]
    wv: NotRequired[Leaf]
    bkv: NotRequired[Tensor]
    bk: NotRequired[Tensor]
    bv: NotRequired[Tensor]
    k_norm: NotRequired[Tensor]


class CrossAttentionLeaves(TypedDict):
    """The parameters of cross-attention that map the decoder's vectors to queries, and the heads' results to
    the output.
    """

    wq: Leaf
    wo: Leaf
    bq: NotRequired[Tensor]
    bo: NotRequired[Tensor]


def multi_head(
    q: Tensor,
    keys: EncoderKV,
    *,
    heads: int,
    scale: float,
    bias: Tensor | None = None,
    causal: bool = False,
    bqkv: Tensor | None = None,
) -> Tensor:
    """Compute attention with the operator MultiHeadAttention, [B, T, H·K]. Each query in q [B, T, H·K] sees
    the first `lengths` keys of its row.

    The keys and values are [B, S, H·K] or [B, H, S, K]. If `bqkv` is given, the operator adds this bias to
    queries, keys and values.
    """
    return onnx.symbolic(
        "com.microsoft::MultiHeadAttention",
        (q, keys.keys, keys.values, bqkv, keys.lengths.to(torch.int32), bias),
        {
            "num_heads": heads,
            "scale": scale,
            "mask_filter_value": hidden(q.dtype),
            "unidirectional": int(causal),
        },
        dtype=q.dtype,
        shape=q.shape,
        version=MICROSOFT,
    )


def _scale(settings: Attention) -> float:
    return settings.head_size**-0.5 if settings.scale is None else settings.scale


def _adds_bias(weights: AttentionLeaves, rotary: Rotary | None, settings: Attention) -> bool:
    """Return whether MultiHeadAttention can add the joined bias of queries, keys and values. This is faster
    than adding the bias before heads are split.
    """
    a = settings
    plain = a.clip is None and a.query_scale is None and rotary is None
    plain = plain and a.qk_norm is None and a.value_norm is None
    return "wqkv" in weights and plain and a.heads == a.kv_heads


def _project(
    x: Tensor,
    weights: AttentionLeaves,
    rotary: Rotary | None,
    *,
    settings: Attention,
    late: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values in heads, normalized and rotated. With `late`, their joined bias is
    left out, because the operator adds it.
    """
    a = settings
    if "wqkv" in weights:
        joined, bqkv = linear(x, weights["wqkv"]), weights.get("bqkv")
        joined = bounded(joined if late or bqkv is None else joined + bqkv, a.clip)
        size = a.kv_heads * a.head_size
        q, k, v = joined.split([a.heads * a.head_size, size, size], dim=-1)
    else:
        q, k, v = three_products(x, weights, clip=a.clip)
    q = split_heads(q, weights.get("q_norm"), settings=a)
    k = split_heads(k, weights.get("k_norm"), settings=a)
    v = split_values(v, settings=a)
    q, k, rotary = positioned(q, k, torch.arange(x.shape[1]).unsqueeze(0), weights, rotary, settings=a)
    if rotary is not None:
        cos, sin = rotary.cos.unsqueeze(0), rotary.sin.unsqueeze(0)
        q = rotate(q, cos, sin, interleaved=a.interleaved)
        k = rotate(k, cos, sin, interleaved=a.interleaved)
    return q, k, v


def _near(time: int, *, settings: Attention, causal: bool) -> Tensor:
    """Return which tokens of a text see each other by the mask of the settings, [1, T, T]. Padding isn't
    considered.
    """
    at = torch.arange(time)
    return seen_by(at.unsqueeze(0), at, settings=settings, causal=causal)


def self_attention(
    x: Tensor,
    lengths: Tensor,
    weights: AttentionLeaves,
    rotary: Rotary | None = None,
    bias: Tensor | None = None,
    *,
    settings: Attention,
    causal: bool = False,
) -> Tensor:
    if isinstance(settings.mask, BigBirdBlocks):
        return self_attention_in_parts(x, lengths, weights, rotary, settings=settings)
    late = _adds_bias(weights, rotary, settings)
    q, k, v = _project(x, weights, rotary, settings=settings, late=late)
    if settings.mask != FullAttention():
        near = _near(x.shape[1], settings=settings, causal=causal)
        far = torch.zeros_like(near, dtype=x.dtype).masked_fill(~near, hidden(x.dtype)).unsqueeze(1)
        bias = far if bias is None else bias + far
    if (times := settings.heads // settings.kv_heads) > 1:
        # The operator has as many keys as queries.
        k, v = (y.unsqueeze(3).expand(-1, -1, -1, times, -1).flatten(2, 3) for y in (k, v))
    q, k, v = q.flatten(-2), k.flatten(-2), v.flatten(-2)
    bqkv = weights.get("bqkv") if late else None
    y = multi_head(
        q,
        EncoderKV(k, v, lengths),
        heads=settings.heads,
        scale=_scale(settings),
        bias=bias,
        causal=causal,
        bqkv=bqkv,
    )
    return linear(from_heads(y, x, weights, settings=settings), weights["wo"], weights.get("bo"))


def self_attention_in_parts(
    x: Tensor,
    lengths: Tensor,
    weights: AttentionLeaves,
    rotary: Rotary | None = None,
    bias: Tensor | None = None,
    *,
    settings: Attention,
    causal: bool = False,
) -> Tensor:
    """Compute a self-attention sublayer that MultiHeadAttention doesn't support, with basic operators over
    the parameters in this target's stored form.
    """
    q, k, v = _project(x, weights, rotary, settings=settings)
    if isinstance(settings.mask, BigBirdBlocks):
        y = bigbird_attend(q, k, v, lengths, **settings.mask.settings, **settings.scoring)
    else:
        mask = padding_mask(torch.arange(x.shape[1]), lengths).unsqueeze(1)
        mask = mask & _near(x.shape[1], settings=settings, causal=causal)
        y = attend(q, k, v, mask, bias, weights.get("sink_logits"), **settings.scoring)
    return linear(from_heads(y.flatten(-2), x, weights, settings=settings), weights["wo"], weights.get("bo"))


def cross_keys(states: Tensor, weights: CrossKeyLeaves, *, settings: Attention) -> tuple[Tensor, Tensor]:
    if "wkv" in weights:
        k, v = linear(states, weights["wkv"], weights.get("bkv")).chunk(2, dim=-1)
    else:
        assert "wk" in weights
        assert "wv" in weights
        k = linear(states, weights["wk"], weights.get("bk"))
        v = linear(states, weights["wv"], weights.get("bv"))
    k = split_heads(k, weights.get("k_norm"), settings=settings)
    return k.transpose(1, 2), v.unflatten(-1, (-1, settings.head_size)).transpose(1, 2)


def cross_attention(
    x: Tensor, encoder_kv: EncoderKV, weights: CrossAttentionLeaves, *, settings: Attention
) -> Tensor:
    q = linear(x, weights["wq"], weights.get("bq"))
    y = multi_head(q, encoder_kv, heads=settings.heads, scale=_scale(settings))
    # A text without tokens gives nothing.
    real = (encoder_kv.lengths > 0).to(y.dtype).view(-1, 1, 1)
    return linear(y * real, weights["wo"], weights.get("bo"))


def cross_attention_in_parts(
    x: Tensor, encoder_kv: EncoderKV, weights: CrossAttentionLeaves, *, settings: Attention
) -> Tensor:
    """Compute a cross-attention sublayer that MultiHeadAttention doesn't support, with basic operators over
    the parameters in this target's stored form.
    """
    q = linear(x, weights["wq"], weights.get("bq")).unflatten(-1, (-1, settings.head_size))
    seen = padding_mask(torch.arange(encoder_kv.keys.shape[2]), encoder_kv.lengths)
    mask = seen.unsqueeze(1).expand(-1, x.shape[1], -1)
    keys, values = encoder_kv.keys.transpose(1, 2), encoder_kv.values.transpose(1, 2)
    y = attend(q, keys, values, mask, **settings.scoring)
    return linear(y.flatten(-2), weights["wo"], weights.get("bo"))
