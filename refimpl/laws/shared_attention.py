"""Laws of attention that reads another layer's keys and values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..ops.attention import attend as plain
from ..ops.attention import attention as writing
from ..ops.linear import linear
from ..ops.quantized_cache import hadamard
from ..ops.shared_attention import queries
from . import Draw, Subject, law
from .attention import opened
from .kit.strategies import splits


@law("shared_attention")
def a_layer_that_reads_its_own_cache_is_itself(shared_attention: Subject, draw: Draw) -> None:
    """If `shared_attention` reads the cache of an attention layer with the same queries and output
    projection, it returns the same result as that layer."""
    call = draw(shared_attention.calls(k_scale=None))
    settings = replace(call["settings"], value_norm=None, keys_as_values=False)
    width, size = call["x"].shape[2], settings.kv_heads * settings.head_size
    rng = np.random.default_rng(int(1e3 * abs(float(np.sum(call["x"])))) if call["x"].size else 0)
    names = ("wq", "wo", "bq", "bo", "q_norm", "sink_logits", "wg", "bg", "w_head_gate", "out_norm")
    weights: Any = {n: call[n] for n in names if call[n] is not None}
    weights |= {n: rng.standard_normal((width, size)) for n in ("wk", "wv")}
    if call["q_norm"] is not None:
        shape = call["q_norm"].shape
        weights["k_norm"] = np.ones(
            shape if shape == (settings.head_size,) else _of_keys(shape, settings.kv_heads, size)
        )
    x, cache = call["x"].astype(np.float64), call["cache"]
    wide = cache._replace(keys=cache.keys.astype(np.float64), values=cache.values.astype(np.float64))
    y, written = writing(x, wide, call["past"], weights, call["rotary"], settings=settings)
    other = call.but(cache=cache._replace(keys=written.keys, values=written.values))
    shared_attention.near(shared_attention(other), y, other)


def _of_keys(shape: tuple[int, ...], kv_heads: int, size: int) -> tuple[int, ...]:
    """Return the shape of the norm of keys that belongs to this norm of queries. A norm of queries may
    have a number for each query head.
    """
    return (kv_heads, shape[1]) if len(shape) == 2 else (size,)


@law("shared_attention")
def each_token_sees_the_cache_up_to_itself(shared_attention: Subject, draw: Draw) -> None:
    """Token t of a row sees the keys in its window up to its own position. The law computes this row by
    row and token by token."""
    call = draw(shared_attention.calls())
    x, settings, past = call["x"].astype(np.float64), call["settings"], call["past"]
    at = past[:, None] + np.arange(x.shape[1])
    q = queries(linear(x, call["wq"], call["bq"]), at, call["q_norm"], call["rotary"], settings=settings)
    y, terms = np.zeros_like(q), {**settings.scoring, "sink_logits": call["sink_logits"]}
    keys, values = (call["cache"][i].astype(np.float64).swapaxes(1, 2) for i in (0, 1))
    for row, length in enumerate(past):
        for t in range(x.shape[1]):
            end = length + t + 1
            seen = slice(0 if settings.window is None else max(0, end - settings.window), end)
            one = plain(
                q[row : row + 1, t : t + 1], keys[row : row + 1, seen], values[row : row + 1, seen], **terms
            )
            y[row, t] = one[0, 0]
    y = hadamard(y) if settings.rotates_values else y
    y = y.reshape(*x.shape[:2], y.shape[2] * y.shape[3])
    y = y * (settings.value_scale or 1)
    if settings.output_gate:
        y = y * opened(linear(x, call["wg"], call["bg"]), settings)
    if settings.head_gate:
        y = y * np.repeat(opened(linear(x, call["w_head_gate"]), settings), settings.head_size, axis=-1)
    if settings.out_norm is not None:
        y = y / np.sqrt((y * y).mean(-1, keepdims=True) + settings.out_norm.eps) * call["out_norm"]
    shared_attention.near(shared_attention(call), linear(y, call["wo"], call["bo"]), call)


@law("shared_attention")
def any_split_of_the_tokens_is_one_pass(shared_attention: Subject, draw: Draw) -> None:
    """Two calls over the parts of a text equal one call, because the cache already contains the keys of
    all tokens.
    """
    call = draw(shared_attention.calls(T=5))
    cut = draw(splits(5))
    first = shared_attention.take(call, "T", range(cut))
    second = shared_attention.take(call, "T", range(cut, 5)).but(past=call["past"] + cut)
    first, second = (part.but(cache=call["cache"]) for part in (first, second))
    parts = np.concatenate([shared_attention(first), shared_attention(second)], 1)
    shared_attention.near(parts, shared_attention(call), call, first, second)
