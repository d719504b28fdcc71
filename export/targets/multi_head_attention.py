"""Attention over a whole text, an encoder's own or what a decoder reads of it, as MultiHeadAttention.

The operator hides keys by a number that is added to their scores. It is finite (`hidden`), so that a query
that may see nothing gives a mean and not NaN, which would reach its neighbours in the next layer.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.onnx import ops as onnx

from ..ops import attention as attentions
from ..ops.mask import causal_mask, padding_mask, window_mask
from ..ops.position import rotate
from . import group_query_attention
from .packed_weights import NBits, RowQuantized

Leaf = Tensor | NBits | RowQuantized

HIDDEN = -1e30


def hidden(dtype: torch.dtype) -> float:
    """What hides a key: finite in the type, even where padding and a window both hide it."""
    return max(HIDDEN, torch.finfo(dtype).min / 2)


def _multi_head(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    bias: Tensor | None,
    heads: int,
    scale: float,
    causal: bool = False,
    bqkv: Tensor | None = None,
) -> Tensor:
    """q [B, T, H·K]; keys and values alike, or [B, H, S, K]; each row sees the first `lengths` of them."""
    return onnx.symbolic(
        "com.microsoft::MultiHeadAttention",
        (q, k, v, bqkv, lengths.to(torch.int32), bias),
        {
            "num_heads": heads,
            "scale": scale,
            "mask_filter_value": hidden(q.dtype),
            "unidirectional": int(causal),
        },
        dtype=q.dtype,
        shape=q.shape,
        version=group_query_attention.MICROSOFT,
    )


def self_attention(
    x: Tensor,
    lengths: Tensor,
    *,
    wo: Leaf,
    wqkv: Leaf | None = None,
    wq: Leaf | None = None,
    wk: Leaf | None = None,
    wv: Leaf | None = None,
    bqkv: Tensor | None = None,
    bq: Tensor | None = None,
    bk: Tensor | None = None,
    bv: Tensor | None = None,
    bo: Tensor | None = None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    bias: Tensor | None = None,
    head_size: int,
    causal: bool = False,
    norm_eps: float = 1e-6,
    norm_kind: Literal["rms", "layer"] = "rms",
    clip: float | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    interleaved: bool = False,
    fused: bool,
) -> Tensor:
    late = False
    if wqkv is not None:
        y, width = group_query_attention.linear(x, wqkv), group_query_attention.inputs(wo)
        rest = (y.shape[-1] - width) // 2
        # The operator adds it while it sets heads apart, which takes less time than not to add it.
        late = fused and clip is None and q_norm is None and k_norm is None and cos is None and rest == width
        y = group_query_attention.bounded(y if late or bqkv is None else y + bqkv, clip)
        q, k, v = y.split([width, rest, rest], dim=-1)
    else:
        assert wq is not None
        assert wk is not None
        assert wv is not None
        q, k, v = (
            group_query_attention.bounded(group_query_attention.linear(x, *given), clip)
            for given in ((wq, bq), (wk, bk), (wv, bv))
        )

    def split(y: Tensor, norm: Tensor | None = None) -> Tensor:
        if norm is None:
            return y.unflatten(-1, (-1, head_size))
        return attentions.normed(y, norm, size=head_size, kind=norm_kind, eps=norm_eps)

    q, k, v = split(q, q_norm), split(k, k_norm), split(v)
    if cos is not None and sin is not None:
        c, s = cos.unsqueeze(0), sin.unsqueeze(0)
        q, k = rotate(q, c, s, interleaved=interleaved), rotate(k, c, s, interleaved=interleaved)
    at = torch.arange(x.shape[1])
    near = (causal_mask if causal else window_mask)(at.unsqueeze(0), at, window=window)
    if not fused:
        mask = padding_mask(at, lengths).unsqueeze(1) & near
        y = attentions.attend(q, k, v, mask, bias, scale=scale, softcap=softcap)
        return group_query_attention.linear(y.flatten(-2), wo, bo)
    if window is not None:
        far = torch.zeros_like(near, dtype=x.dtype).masked_fill(~near, hidden(x.dtype)).unsqueeze(1)
        bias = far if bias is None else bias + far
    if (times := q.shape[2] // k.shape[2]) > 1:
        # The operator has as many keys as queries.
        k, v = (y.unsqueeze(3).expand(-1, -1, -1, times, -1).flatten(2, 3) for y in (k, v))
    q, k, v = (y.flatten(-2) for y in (q, k, v))
    share = head_size**-0.5 if scale is None else scale
    y = _multi_head(q, k, v, lengths, bias, q.shape[-1] // head_size, share, causal, bqkv if late else None)
    return group_query_attention.linear(y, wo, bo)


def cross_keys(
    states: Tensor,
    *,
    wkv: Leaf | None = None,
    wk: Leaf | None = None,
    wv: Leaf | None = None,
    bkv: Tensor | None = None,
    bk: Tensor | None = None,
    bv: Tensor | None = None,
    head_size: int,
) -> tuple[Tensor, Tensor]:
    if wkv is not None:
        k, v = group_query_attention.linear(states, wkv, bkv).chunk(2, dim=-1)
    else:
        assert wk is not None
        assert wv is not None
        k, v = group_query_attention.linear(states, wk, bk), group_query_attention.linear(states, wv, bv)
    k, v = (y.unflatten(-1, (-1, head_size)).transpose(1, 2) for y in (k, v))
    return k, v


def cross_attention(
    x: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    wq: Leaf,
    wo: Leaf,
    bq: Tensor | None = None,
    bo: Tensor | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    fused: bool,
) -> Tensor:
    q, size = group_query_attention.linear(x, wq, bq), k.shape[-1]
    if not fused:
        seen = padding_mask(torch.arange(k.shape[2]), lengths).unsqueeze(1).expand(-1, x.shape[1], -1)
        heads = q.unflatten(-1, (-1, size))
        y = attentions.attend(heads, k.transpose(1, 2), v.transpose(1, 2), seen, scale=scale, softcap=softcap)
        return group_query_attention.linear(y.flatten(-2), wo, bo)
    y = _multi_head(q, k, v, lengths, None, k.shape[1], size**-0.5 if scale is None else scale)
    # Of a text without tokens nothing is read.
    return group_query_attention.linear(y * (lengths > 0).to(y.dtype).view(-1, 1, 1), wo, bo)
