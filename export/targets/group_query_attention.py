"""Compute a decoder's attention with ONNX Runtime's GroupQueryAttention, which writes the cache in place."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, NotRequired, TypedDict

import torch
from torch import Tensor
from torch.onnx import ops as onnx

from ...refimpl.config import Attention
from ...refimpl.config.token_mixers import KV_BITS
from ...refimpl.ops.arrays import split_last
from ...refimpl.ops.attention import (
    from_heads,
    positioned,
    rotated_values,
    split_heads,
    split_values,
)
from ...refimpl.ops.cache import KVCache
from ...refimpl.ops.position import Rotary
from ...refimpl.ops.quantized_cache import hadamard
from ...refimpl.ops.shared_attention import queries
from .ort_ops import MICROSOFT, Leaf, bounded, linear


class AttentionLeaves(TypedDict):
    """The parameters of an attention sublayer in the form that this target stores: one joined matrix for
    queries, keys and values, or three matrices.
    """

    wqkv: NotRequired[Leaf]
    wq: NotRequired[Leaf]
    wk: NotRequired[Leaf]
    wv: NotRequired[Leaf]
    wo: Leaf
    bqkv: NotRequired[Tensor]
    bq: NotRequired[Tensor]
    bk: NotRequired[Tensor]
    bv: NotRequired[Tensor]
    bo: NotRequired[Tensor]
    q_norm: NotRequired[Tensor]
    k_norm: NotRequired[Tensor]
    sink_logits: NotRequired[Tensor]
    wg: NotRequired[Leaf]
    bg: NotRequired[Tensor]
    w_head_gate: NotRequired[Leaf]
    out_norm: NotRequired[Tensor]


class SharedAttentionLeaves(TypedDict):
    """The parameters of an attention sublayer that reads another layer's cache, so it has no matrices for
    keys and values.
    """

    wq: Leaf
    wo: Leaf
    bq: NotRequired[Tensor]
    bo: NotRequired[Tensor]
    q_norm: NotRequired[Tensor]
    sink_logits: NotRequired[Tensor]
    wg: NotRequired[Leaf]
    bg: NotRequired[Tensor]
    w_head_gate: NotRequired[Leaf]
    out_norm: NotRequired[Tensor]


class RowLengths(NamedTuple):
    """Two inputs of GroupQueryAttention: `seqlens` [B] is the index of each row's last token in the cache,
    and `total` is the length of the longest row.
    """

    seqlens: Tensor
    total: Tensor


class Places(NamedTuple):
    """The lengths of rows in the cache, and the positions of the new tokens in the text.

    The positions are None if they equal the tokens' places in the cache.
    """

    lengths: RowLengths
    positions: Tensor | None


def three_products(
    x: Tensor, weights: AttentionLeaves, *, clip: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Multiply x by separate matrices for queries, keys and values, and clip the results, each [B, T, H·K].
    If there is no matrix for values, the keys are also the values.
    """
    assert "wq" in weights
    assert "wk" in weights
    q = bounded(linear(x, weights["wq"], weights.get("bq")), clip)
    k = bounded(linear(x, weights["wk"], weights.get("bk")), clip)
    v = bounded(linear(x, weights["wv"], weights.get("bv")), clip) if "wv" in weights else k
    return q, k, v


def joined_products(x: Tensor, weights: Any) -> tuple[Tensor, ...]:
    """Multiply x by one joined matrix, or by three matrices, and return the queries, keys and values, each
    [B, T, H·K].
    """
    if "wqkv" in weights:
        return linear(x, weights["wqkv"], weights.get("bqkv")).chunk(3, dim=-1)
    return three_products(x, weights, clip=None)


def _project(
    x: Tensor, at: Tensor, weights: AttentionLeaves, rotary: Rotary | None, *, settings: Attention
) -> tuple[Tensor, Tensor | None, Tensor | None, Rotary | None]:
    """Return the queries, keys and values of the tokens at the positions `at` [B, T], and the rotation that
    the operator still has to apply.

    If nothing has to be normalized or scaled, a joined product isn't split. Then the queries contain keys and
    values side by side, and keys and values are None.
    """
    a = settings
    widths = [a.heads * a.head_size, a.kv_heads * a.head_size, a.kv_heads * a.head_size]
    whole = a.qk_norm is None and a.query_scale is None and a.value_norm is None and not a.rotates_values
    if "wqkv" not in weights:
        q, k, v = three_products(x, weights, clip=a.clip)
    else:
        joined = bounded(linear(x, weights["wqkv"], weights.get("bqkv")), a.clip)
        if whole:
            return joined, None, None, rotary
        q, k, v = joined.split(widths, dim=-1)
    if not whole:
        # The operator's own norm inputs exist on CUDA only.
        q = split_heads(q, weights.get("q_norm"), settings=a)
        k = split_heads(k, weights.get("k_norm"), settings=a)
        q, k, rotary = positioned(q, k, at, weights, rotary, settings=a)
        q, k = q.reshape(*x.shape[:2], widths[0]), k.reshape(*x.shape[:2], widths[1])
        v = split_values(v, settings=a)
        v = rotated_values(v, settings=a).reshape(*x.shape[:2], widths[2])
    return q, k, v, rotary


class GroupQueryAttention:
    """Computes the attention of all layers of a graph with ONNX Runtime's GroupQueryAttention. The layers
    share the lengths of rows, which the graph computes once.

    If `whole`, the graph reads whole texts, so no row has earlier tokens in the cache.
    """

    def __init__(self, whole: bool = False) -> None:
        self._whole = whole
        self._computed: list[tuple[Tensor, RowLengths]] = []

    def __call__(
        self,
        x: Tensor,
        cache: KVCache,
        past: Tensor,
        weights: AttentionLeaves,
        rotary: Rotary | None = None,
        bias: Tensor | None = None,
        *,
        settings: Attention,
        window_lengths: Mapping[int, Tensor] = MappingProxyType({}),
        row_lengths: Mapping[int | None, RowLengths] = MappingProxyType({}),
    ) -> tuple[Tensor, KVCache]:
        """Compute an attention sublayer over its cache. Returns the output and the new cache.

        `window_lengths` maps each window to the number of tokens [B] that the caches of layers with this
        window contain. `row_lengths` maps each window, and None for layers without one, to the length inputs
        of the operator, if they are graph inputs.
        """
        assert bias is None, "scores with a bias are refused, see operator_limits"
        batch, time, _ = x.shape
        a = settings
        at = past.unsqueeze(-1) + torch.arange(time)
        q, k, v, rotary = _project(x, at, weights, rotary, settings=a)
        places = self._places(at, past, rotary, window_lengths, row_lengths, settings=a)
        y, keys, values = onnx.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            _inputs((q, k, v), cache, places, rotary, weights.get("sink_logits")),
            _attributes(cache, rotary, settings=a),
            dtypes=(x.dtype, cache.keys.dtype, cache.values.dtype),
            shapes=((batch, time, a.heads * a.head_size), cache.keys.shape, cache.values.shape),
            version=MICROSOFT,
        )
        if a.rotates_values:
            y = hadamard(split_last(y, a.head_size)).flatten(-2)
        y = from_heads(y, x, weights, settings=a)
        return linear(y, weights["wo"], weights.get("bo")), cache._replace(keys=keys, values=values)

    def read(
        self,
        x: Tensor,
        cache: KVCache,
        past: Tensor,
        weights: SharedAttentionLeaves,
        rotary: Rotary | None = None,
        *,
        settings: Attention,
        window_lengths: Mapping[int, Tensor] = MappingProxyType({}),
        row_lengths: Mapping[int | None, RowLengths] = MappingProxyType({}),
    ) -> Tensor:
        """Compute the attention of a layer that reads another layer's cache.

        The operator gets no new keys and values, so it writes nothing to the cache. Since the operator has no
        outputs for a cache, it copies nothing.
        """
        batch, time, _ = x.shape
        a = settings
        at = past.unsqueeze(-1) + torch.arange(time)
        q = linear(x, weights["wq"], weights.get("bq"))
        early = None
        if a.qk_norm is not None and a.qk_norm.rotated:
            early, rotary = rotary, None
        q = queries(q, at, weights.get("q_norm"), early, settings=a).flatten(-2)
        places = self._places(at, past, rotary, window_lengths, row_lengths, settings=a)
        none = x.new_zeros((batch, 0, a.kv_heads * a.head_size))
        y = onnx.symbolic(
            "com.microsoft::GroupQueryAttention",
            _inputs((q, none, none), cache, places, rotary, weights.get("sink_logits")),
            _attributes(cache, rotary, settings=a),
            dtype=x.dtype,
            shape=(batch, time, a.heads * a.head_size),
            version=MICROSOFT,
        )
        return linear(from_heads(y, x, weights, settings=a), weights["wo"], weights.get("bo"))

    def _places(
        self,
        at: Tensor,
        past: Tensor,
        rotary: Rotary | None,
        window_lengths: Mapping[int, Tensor],
        row_lengths: Mapping[int | None, RowLengths],
        *,
        settings: Attention,
    ) -> Places:
        """Return where the tokens at the positions `at` [B, T] are in the cache. If old tokens were dropped
        from the cache of a window, these places differ from the positions.
        """
        window, positions = settings.window, None
        if window is not None and (window in window_lengths or window in row_lengths):
            # The cache begins with the latest tokens that its window may still need, so places in it aren't
            # positions. The operator would drop old tokens itself (sliding_window_cache), but after that it
            # holds no more than the window, and on CUDA never more: no drafted token could be cut back.
            positions = at
            past = window_lengths.get(window, past)
        own = row_lengths.get(window, row_lengths.get(None))
        return Places(self._row_lengths(past, at) if own is None else own, positions)

    def _row_lengths(self, past: Tensor, at: Tensor) -> RowLengths:
        """Compute the operator's length inputs in the graph for tokens at the positions `at` [B, T]. All
        layers with the same `past` share the result.
        """
        time = at.shape[1]
        for known, lengths in self._computed:
            if known is past:
                return lengths
        # Places count to the padded end of a row: under a causal mask padding is never seen.
        if self._whole:
            # On CUDA the operator takes seqlens on the GPU, where positions are, and total on the CPU, where
            # sizes are: so neither is copied.
            seqlens, total = at[:, -1], torch.zeros((), dtype=torch.int64) + time
        else:
            seqlens, total = past + (time - 1), past.max() + time
        lengths = RowLengths(seqlens.to(torch.int32), total.to(torch.int32))
        self._computed.append((past, lengths))
        return lengths


def _inputs(
    projected: tuple[Tensor, Tensor | None, Tensor | None],
    cache: KVCache,
    places: Places,
    rotary: Rotary | None,
    sink_logits: Tensor | None,
) -> tuple[Tensor | None, ...]:
    cos, sin = (None, None) if rotary is None else rotary
    state = (cache.keys, cache.values, *places.lengths)
    return (*projected, *state, cos, sin, places.positions, None, sink_logits, cache.k_scale, cache.v_scale)


def _attributes(cache: KVCache, rotary: Rotary | None, *, settings: Attention) -> dict[str, Any]:
    a = settings
    attributes: dict[str, Any] = {
        "num_heads": a.heads,
        "kv_num_heads": a.kv_heads,
        "scale": a.head_size**-0.5 if a.scale is None else a.scale,
    }
    if rotary is not None:
        attributes |= {"do_rotary": 1, "rotary_interleaved": int(a.interleaved)}
    if a.window is not None:
        attributes["local_window_size"] = a.window
    if a.softcap is not None:
        attributes["softcap"] = a.softcap
    if cache.k_scale is not None:
        attributes |= {
            "k_quant_type": "PER_CHANNEL",
            "v_quant_type": "PER_CHANNEL",
            "kv_cache_bit_width": KV_BITS[a.kv],
        }
    return attributes


def project(x: Tensor, weights: AttentionLeaves, *, settings: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values in heads, as the specification's `project` does, from parameters in
    this target's stored form.

    This function is used for layers that GroupQueryAttention doesn't support.
    """
    a = settings
    if "wqkv" in weights:
        joined = bounded(linear(x, weights["wqkv"], weights.get("bqkv")), a.clip)
        widths = [a.heads * a.head_size, a.kv_heads * a.head_size, a.kv_heads * a.head_size]
        q, k, v = joined.split(widths, dim=-1)
    else:
        q, k, v = three_products(x, weights, clip=a.clip)
    q = split_heads(q, weights.get("q_norm"), settings=a)
    k = split_heads(k, weights.get("k_norm"), settings=a)
    return q, k, split_values(v, settings=a)
