"""The kernels' attention as C functions, called through ctypes, and what it is compared with."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy import ndarray as Array
from tfm.refimpl.ops.attention import attend
from tfm.refimpl.ops.cache import append
from tfm.refimpl.ops.mask import causal_mask
from tfm.refimpl.ops.position import rotate
from tfm.refimpl.ops.quantized_cache import (
    ChannelQuantized,
    append_by_channel,
    pack_nibbles,
    read_by_channel,
    unpack_nibbles,
)

from .kernels import GUARD, Kernels, Runner, guarded, in_order, pool_of

POINTERS = (
    "q", "k", "v", "keys", "values", "k_scale", "v_scale", "y", "last", "lengths", "positions", "cos", "sin",
    "sinks", "bias",
)  # fmt: skip
STRIDES = ("q_stride", "k_stride", "v_stride", "bias_batch", "bias_head")
SIZES = ("batch", "tokens", "heads", "kv_heads", "head_size", "capacity", "table", "pairs", "window")


class AttentionCall(ctypes.Structure):
    """kernels.h: `AttentionCall`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_size_t) for name in STRIDES),
        *((name, ctypes.c_int32) for name in SIZES),
        *((name, ctypes.c_bool) for name in ("interleaved", "causal", "by_head")),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("cache", ctypes.c_int32),
    )


# kernels.h: `CacheType` by the type of the arrays, and `Attended`.
CACHE_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.int8): 2, np.dtype(np.uint8): 3}
DONE, MISFIT, TOO_LARGE = range(3)


@dataclass(frozen=True)
class Call:
    """One call: queries [B, T, H, K], keys and values [B, T, G, K], and the cache [B, G, C, K] for these.

    The cache is of float32, float16, int8, or uint8 with two codes each, all else of float32.
    """

    q: Array
    k: Array
    v: Array
    keys: Array
    values: Array
    past: Array  # [B]: tokens in the cache
    cos: Array | None = None  # [positions, J]
    sin: Array | None = None
    sinks: Array | None = None  # [H]
    k_scale: Array | None = None  # [G, K], of codes
    v_scale: Array | None = None
    dropped: Array | None = None  # [B]: tokens that were in the cache before; None: 0, without positions
    interleaved: bool = False
    window: int | None = None
    softcap: float | None = None
    scale: float = 1.0
    joined: bool = False  # whether q, k and v lie side by side, token by token

    def tokens(self, start: int, end: int) -> Call:
        """Some of its new tokens."""
        part = {name: getattr(self, name)[:, start:end] for name in ("q", "k", "v")}
        return replace(self, past=self.past + start, **part)

    def row(self, b: int) -> Call:
        """One row of the batch."""
        names = ("q", "k", "v", "keys", "values", "past", "dropped")
        rows = {name: getattr(self, name) for name in names}
        return replace(self, **{name: None if a is None else a[b : b + 1] for name, a in rows.items()})

    def converted(self, change: Callable[[Array], Array]) -> Call:
        """The same with its floats changed, but for a cache of float16."""
        old = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays = {n: a for n, a in old.items() if isinstance(a, np.ndarray)}
        floats = {n: a for n, a in arrays.items() if a.dtype in (np.float32, np.float64)}
        return replace(self, **{n: change(a) for n, a in floats.items()})


def run(kernels: Kernels, call: Call, runner: Runner = in_order) -> tuple[Array, Array, Array]:
    """The kernel's output [B, T, H, K] and its cache; nothing is written beside them and the scratch."""
    results, attended = attempt(kernels, call, runner)
    assert attended == DONE
    return results


def _laid_out(call: Call | TextCall) -> tuple[tuple[Array, Array, Array], list[int]]:
    """Queries, keys and values as the call has them in memory, and the strides from token to token."""
    q, k, v = (np.ascontiguousarray(a) for a in (call.q, call.k, call.v))
    (heads, size), groups = q.shape[2:], k.shape[2]
    if not call.joined:
        return (q, k, v), [heads * size, groups * size, groups * size]
    q = np.concatenate([q, k, v], axis=2)
    return (q, q[:, :, heads:], q[:, :, heads + groups :]), [q.shape[2] * size] * 3


def attempt(
    kernels: Kernels, call: Call, runner: Runner = in_order
) -> tuple[tuple[Array, Array, Array], int]:
    """The same, and what the kernel says of the call."""
    batch, tokens, heads, size = call.q.shape
    groups, capacity = call.keys.shape[1:3]
    (q, k, v), strides = _laid_out(call)
    memory = [_copied(array) for array in (np.empty_like(call.q), call.keys, call.values)]
    y, keys, values = (bytes_.ctypes.data for bytes_ in memory)
    last = (call.past + tokens - 1).astype(np.int32)
    positions = None
    if call.dropped is not None:
        positions = (call.past + call.dropped)[:, None] + np.arange(tokens)[None]
    arrays = (q, k, v, last, positions, call.cos, call.sin, call.sinks)
    at = [None if a is None else a.ctypes.data for a in arrays]
    table, pairs = (0, 0) if call.cos is None else call.cos.shape
    sizes = (batch, tokens, heads, groups, size, capacity, table, pairs, call.window or 0)
    options = (call.interleaved, False, False, call.scale, call.softcap or 0, CACHE_TYPES[call.keys.dtype])
    scales = [None if a is None else a.ctypes.data for a in (call.k_scale, call.v_scale)]
    at = [*at[:3], keys, values, *scales, y, at[3], None, *at[4:], None]
    c = AttentionCall(*at, *strides, 0, 0, *sizes, *options)
    needed = kernels.attention_scratch(ctypes.addressof(c))
    scratch = guarded(needed)
    attended = kernels.attention(ctypes.addressof(c), scratch.ctypes.data, pool_of(runner))
    assert (scratch[needed:] == GUARD).all(), "written behind the scratch memory"
    results = []
    for bytes_, like in zip(memory, (call.q, call.keys, call.values), strict=True):
        assert (bytes_[like.nbytes :] == GUARD).all(), "written behind an array"
        results.append(bytes_[: like.nbytes].view(like.dtype).reshape(like.shape))
    return (results[0], results[1], results[2]), attended


@dataclass(frozen=True)
class TextCall:
    """Attention over whole texts: queries [B, T, H, K]; keys and values [B, S, G, K], also in float16."""

    q: Array
    k: Array
    v: Array
    lengths: Array  # [B]
    bias: Array | None = None  # [B or 1, H or 1, T, S]
    scale: float = 1.0
    joined: bool = False  # whether q, k and v lie side by side, token by token
    by_head: bool = False  # whether k and v lie head by head
    causal: bool = False


def run_text(kernels: Kernels, call: TextCall, runner: Runner = in_order) -> Array:
    """The kernel's output [B, T, H, K]; nothing is written beside it and the scratch."""
    batch, tokens, heads, size = call.q.shape
    capacity, groups = call.k.shape[1:3]
    (q, k, v), strides = _laid_out(call)
    y, lengths = guarded(call.q.nbytes), call.lengths.astype(np.int32)
    if call.by_head:
        k, v = (np.ascontiguousarray(a.swapaxes(1, 2)) for a in (k, v))
        strides = [strides[0], size, size]
    at = [*(a.ctypes.data for a in (q, k, v)), *[None] * 4, y.ctypes.data, None, lengths.ctypes.data]
    at, steps = [*at, *[None] * 5], [0, 0]
    if call.bias is not None:
        bias = np.ascontiguousarray(call.bias)
        at[-1], (texts, heads_of_bias), pairs = bias.ctypes.data, bias.shape[:2], tokens * capacity
        steps = [(texts > 1) * heads_of_bias * pairs, (heads_of_bias > 1) * pairs]
    sizes = (batch, tokens, heads, groups, size, capacity, 0, 0, 0)
    options = (False, call.causal, call.by_head, call.scale, 0, CACHE_TYPES[call.k.dtype])
    c = AttentionCall(*at, *strides, *steps, *sizes, *options)
    needed = kernels.attention_scratch(ctypes.addressof(c))
    scratch = guarded(needed)
    assert kernels.attention(ctypes.addressof(c), scratch.ctypes.data, pool_of(runner)) == DONE
    assert (scratch[needed:] == GUARD).all(), "written behind the scratch memory"
    assert (y[call.q.nbytes :] == GUARD).all(), "written behind the output"
    return y[: call.q.nbytes].view(np.float32).reshape(call.q.shape)


def _copied(array: Array) -> Array:
    """The bytes of an array, with some behind them that nothing may write."""
    memory = guarded(array.nbytes)
    memory[: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memory


def specified(call: Call) -> tuple[Array, Array, Array]:
    """The same by `refimpl`, in the type of the queries."""
    q, k = call.q, call.k
    at = call.past[:, None] + np.arange(q.shape[1])[None, :]
    positions = at if call.dropped is None else at + call.dropped[:, None]
    if call.cos is not None and call.sin is not None:
        q = rotate(q, call.cos[positions], call.sin[positions], interleaved=call.interleaved)
        k = rotate(k, call.cos[positions], call.sin[positions], interleaved=call.interleaved)
    keys, values, read_keys, read_values = _cached(call, k)
    mask = causal_mask(at, np.arange(keys.shape[2]), window=call.window)
    # What no token sees may be NaN, which a weight of 0 wouldn't hide.
    read = np.any(mask, axis=1)[:, None, :, None]
    seen = [np.where(read, a, 0).transpose(0, 2, 1, 3).astype(q.dtype) for a in (read_keys, read_values)]
    y = attend(q, *seen, mask, None, call.sinks, scale=call.scale, softcap=call.softcap)
    return y, keys, values


def _cached(call: Call, k: Array) -> tuple[Array, Array, Array, Array]:
    """The cache with the new keys, which were rotated, and values; and both as they are read."""
    if call.k_scale is None or call.v_scale is None:
        keys, values = append(call.keys, k, call.past), append(call.values, call.v, call.past)
        return keys, values, keys, values
    packed = call.keys.dtype == np.uint8
    sides = [
        append_by_channel(
            ChannelQuantized(unpack_nibbles(codes) if packed else codes, scale),
            new,
            call.past,
            bits=4 if packed else 8,
        )
        for codes, scale, new in ((call.keys, call.k_scale, k), (call.values, call.v_scale, call.v))
    ]
    keys, values = (pack_nibbles(side.codes) if packed else side.codes for side in sides)
    return keys, values, read_by_channel(sides[0]), read_by_channel(sides[1])
