"""Laws of attention: the softmax, its weights, grouped heads, and attention over a cache."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..config import Attention, LayerNorm, Norm, Window
from ..config.token_mixers import KV_BITS
from ..ops.attention import ScoreTerms
from ..ops.attention import attend as plain
from ..ops.attention import cached_attention as cached
from ..ops.cache import KeysValues
from ..ops.linear import linear
from ..ops.position import rotate
from ..ops.quantized_cache import hadamard
from ..ops.quantized_cache import round_by_channel as rounded
from . import Draw, Subject, law
from .kit.one_pass import in_two
from .kit.strategies import permutations


@law("softmax")
def weights_are_a_distribution(softmax: Subject, draw: Draw) -> None:
    """Softmax weights are at least 0, are 0 for masked keys, and sum to 1 if any key is allowed."""
    call = draw(softmax.calls(sink=None))
    weights = softmax(call)
    assert not (weights < 0).any(), "a weight is negative"
    allowed = np.ones(weights.shape, bool) if call["mask"] is None else call["mask"]
    assert (weights[~allowed] == 0).all(), "the weight of a masked key isn't 0"
    softmax.near(weights.sum(-1), allowed.any(-1).astype(float), call, times=weights.shape[-1])


@law("softmax")
def a_shift_of_all_scores_changes_nothing(softmax: Subject, draw: Draw) -> None:
    """Adding a number c to all scores, and to the sink, doesn't change the softmax."""
    call = draw(softmax.calls())
    other = call.but(scores=call["scores"] + 3, sink=None if call["sink"] is None else call["sink"] + 3)
    softmax.near(softmax(other), softmax(call), other, call)


@law("softmax")
def a_sink_is_one_more_score(softmax: Subject, draw: Draw) -> None:
    """Softmax weights with a sink equal the softmax over the scores and the sink together, with the sink's
    own weight left out.
    """
    call = draw(softmax.calls(sink=True))
    mask = call["mask"]
    if mask is not None:
        mask = np.concatenate([mask, np.ones((*mask.shape[:2], 1), bool)], -1)
    joined = call.but(scores=np.concatenate([call["scores"], call["sink"]], -1), mask=mask, sink=None)
    softmax.near(softmax(call), softmax(joined)[..., :-1], call, joined)


@law("softmax")
def large_scores_do_not_overflow(softmax: Subject, draw: Draw) -> None:
    """The softmax takes exp only of differences of scores. So neither a large score nor a large sink
    overflows.
    """
    call = draw(softmax.calls())
    large = call.but(scores=call["scores"] + 1000)
    assert np.isfinite(softmax(large)).all(), "scores near 1000 give weights that aren't finite"
    if call["sink"] is not None:
        weights = softmax(call.but(sink=np.full_like(call["sink"], 3e4)))
        assert not weights.any(), "with a sink of 30000, the weight of a key isn't 0"


@law("softmax")
def a_row_that_sees_nothing_gives_zeros(softmax: Subject, draw: Draw) -> None:
    """If no key is allowed, all softmax weights are 0, and nothing is divided by zero."""
    call = draw(softmax.calls(mask=True))
    assert not softmax(call.but(mask=np.zeros_like(call["mask"]))).any(), (
        "with all keys masked, a weight isn't 0"
    )


@law("attention_weights")
def weights_are_the_softmax_of_scaled_scores(attention_weights: Subject, draw: Draw) -> None:
    """Attention weights are softmax(q·k / √K) for each head. The law computes this by einsum, without
    grouped products.
    """
    call = draw(attention_weights.calls(mask=None, scale=None, softcap=None, sink_logits=None))
    q, k = call["q"], call["k"]
    keys = np.repeat(k, q.shape[2] // k.shape[2], axis=2)
    scores = np.einsum("bthk,bshk->bhts", q, keys, dtype=np.float64) / np.sqrt(q.shape[3])
    if call["bias"] is not None:
        scores = scores + call["bias"]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    attention_weights.near(attention_weights(call), weights / weights.sum(-1, keepdims=True), call)


@law("attention_weights", "attend")
def the_default_scale_is_one_over_root_k(attend: Subject, draw: Draw) -> None:
    """If no scale is given, attention uses the scale 1/√K."""
    call = draw(attend.calls(scale=None))
    other = call.but(scale=call["q"].shape[3] ** -0.5)
    attend.near(attend(call), attend(other), call)


@law("attend")
def values_are_averaged_by_the_weights(attend: Subject, draw: Draw) -> None:
    """If the values are unit vectors, the output of attention is its weights, which are a distribution
    over the keys.
    """
    call = draw(attend.calls(mask=None, sink_logits=None))
    v = call["v"]
    units = np.broadcast_to(np.eye(v.shape[1], dtype=v.dtype)[None, :, None], (*v.shape[:3], v.shape[1]))
    shown = call.but(v=units)
    got = attend(shown)
    assert not (got < 0).any(), "a weight is negative"
    attend.near(got.sum(-1), np.ones(got.shape[:-1]), shown, times=v.shape[1])
    repeated = np.repeat(v, got.shape[2] // v.shape[2], axis=2).astype(np.float64)
    attend.near(attend(call), np.einsum("bths,bshv->bthv", got, repeated), call, shown, times=_reach(v))


def _reach(v: np.ndarray) -> float:
    """Return how far errors of weights may change a mean of these values."""
    return max(1.0, float(np.abs(v).sum(1).max()))


@law("attend")
def a_sink_is_a_key_without_a_value(attend: Subject, draw: Draw) -> None:
    """A sink acts like one more key of zeros that every query sees, with the sink's logit as its bias and
    with a value of zeros.
    """
    call = draw(attend.calls(sink_logits=True))
    (b, t, heads, _), (_, s, groups, size) = call["q"].shape, call["v"].shape
    bias = np.zeros((b, heads, t, s), call["q"].dtype) if call["bias"] is None else call["bias"]
    logits = np.broadcast_to(call["sink_logits"][:, None, None], (b, heads, t, 1))
    mask = call["mask"]
    if mask is not None:
        mask = np.concatenate([mask, np.ones((b, t, 1), bool)], -1)
    other = call.but(
        k=np.concatenate([call["k"], np.zeros((b, 1, groups, call["k"].shape[3]), call["k"].dtype)], 1),
        v=np.concatenate([call["v"], np.zeros((b, 1, groups, size), call["v"].dtype)], 1),
        mask=mask,
        bias=np.concatenate([bias, logits], -1),
        sink_logits=None,
    )
    attend.near(attend(call), attend(other), call, other)


@law("attend")
def grouped_heads_are_repeated_heads(attend: Subject, draw: Draw) -> None:
    """Grouped-query attention equals multi-head attention in which each key and value head is repeated."""
    call = draw(attend.calls())
    share = call["q"].shape[2] // call["k"].shape[2]
    repeated = call.but(k=np.repeat(call["k"], share, axis=2), v=np.repeat(call["v"], share, axis=2))
    attend.near(attend(call), attend(repeated), call, repeated)


@law("attend")
def keys_are_a_set(attend: Subject, draw: Draw) -> None:
    """Attention doesn't depend on the order of keys, if mask and values are permuted like the keys."""
    call = draw(attend.calls())
    other = attend.take(call, "S", draw(permutations(call["k"].shape[1])))
    attend.near(attend(other), attend(call), other, call)


@law("attend")
def a_forbidden_key_is_as_if_absent(attend: Subject, draw: Draw) -> None:
    """The content of a masked key and of its value, however large, doesn't change the result of attention."""
    call = draw(attend.calls(mask=True))
    hidden = ~call["mask"].any(1)
    garbage = np.where(hidden[..., None, None], 1e4, 0).astype(call["k"].dtype)
    other = call.but(k=call["k"] + garbage, v=call["v"] + garbage)
    attend.near(attend(other), attend(call), call)


@law("cached_attention")
def any_split_of_the_tokens_is_one_pass(cached_attention: Subject, draw: Draw) -> None:
    """Two calls of cached attention over the parts of a text return the same outputs and cache as one
    call, whatever the positions and the mask.
    """
    call = draw(cached_attention.calls())
    in_two(cached_attention, draw, call, lambda cut, cache: {"cache": cache, "past": call["past"] + cut})


@law("cached_attention")
def rows_do_not_depend_on_each_other(cached_attention: Subject, draw: Draw) -> None:
    """A row of a batch gives the same result as the row by itself. So each row has its own past, and no
    row sees another row.
    """
    call = draw(cached_attention.calls())
    alone = [cached_attention(cached_attention.take(call, "B", [row])) for row in range(len(call["past"]))]
    y = np.concatenate([one for one, _ in alone])
    keys, values = (np.concatenate([getattr(cache, n) for _, cache in alone]) for n in ("keys", "values"))
    expected, cache = cached_attention(call)
    cached_attention.near((y, cache._replace(keys=keys, values=values)), (expected, cache), call)


@law("cached_attention")
def each_token_sees_the_past_and_itself(cached_attention: Subject, draw: Draw) -> None:
    """Token t of a row attends to the row's cached tokens and to the call's tokens up to t, as far as they
    are in its window.
    """
    call = draw(cached_attention.calls())
    q, k, v = (call[n].astype(np.float64) for n in "qkv")
    past, tokens, window = call["past"], q.shape[1], call["window"]
    if call["cos"] is not None:
        at = past[:, None] + np.arange(tokens)
        turn = call["cos"].astype(np.float64)[at], call["sin"].astype(np.float64)[at]
        q, k = (rotate(a, *turn, interleaved=call["interleaved"]) for a in (q, k))
    rotates = call["settings"].rotates_values
    if call["k_scale"] is not None:
        bits, v = KV_BITS[call["settings"].kv], hadamard(v) if rotates else v
        k, v = (
            rounded(a, call[n].astype(np.float64), bits=bits) for a, n in ((k, "k_scale"), (v, "v_scale"))
        )
    expected, keys, values = [], [], []
    for row, length in enumerate(past):
        keys.append(np.concatenate([call["keys"][row, :, :length].swapaxes(0, 1), k[row]])[None])
        values.append(np.concatenate([call["values"][row, :, :length].swapaxes(0, 1), v[row]])[None])
        for t in range(tokens):
            seen = slice(0 if window is None else max(0, length + t + 1 - window), length + t + 1)
            here = {**call["settings"].scoring, "sink_logits": call["sink_logits"]}
            if call["bias"] is not None:
                here["bias"] = call["bias"][row : row + 1, :, t : t + 1, seen]
            expected.append(
                plain(q[row : row + 1, t : t + 1], keys[row][:, seen], values[row][:, seen], **here)
            )
    got, cache = cached_attention(call)
    means = np.concatenate(expected)
    cached_attention.near(got, (hadamard(means) if rotates else means).reshape(got.shape), call)
    for row, length in enumerate(past):
        stored = tuple(c[row : row + 1, :, : length + tokens].swapaxes(1, 2) for c in cache[:2])
        cached_attention.near(stored, (keys[row], values[row]), call)


@law("cached_attention")
def a_window_needs_the_latest_tokens_alone(cached_attention: Subject, draw: Draw) -> None:
    """A cache that dropped the oldest tokens gives the same result as the full cache. The remaining tokens
    are at its front, and positions are counted from there. If a row is truncated to the `floor` of its
    kind of cache, the cache still contains all tokens that the next token sees."""
    window = draw(st.integers(1, 4))
    call = draw(cached_attention.calls(rotary=None, bias=None)).but(mask=Window(window))
    (rows, groups, _, size), tokens = call["keys"].shape, call["q"].shape[1]
    kind, rng = KeysValues(groups, size, window=window), np.random.default_rng(draw(st.integers(0, 99)))
    dropped = np.array([draw(st.integers(0, 9)) for _ in range(rows)])
    held = kind.retained + dropped
    shape = rows, groups, held.max() + tokens, size
    whole = [rng.standard_normal(shape).astype(call["keys"].dtype) for _ in "kv"]
    latest = [array.copy() for array in whole]
    for row, count in enumerate(held):
        kind.keep_latest(latest, row, count)
    least = kind.floor(held, dropped)
    past = np.array([draw(st.integers(*pair)) for pair in zip(least, held, strict=True)])
    full = call.but(keys=whole[0], values=whole[1], past=past)
    short = call.but(keys=latest[0], values=latest[1], past=past - dropped)
    cached_attention.near(cached_attention(short)[0], cached_attention(full)[0], short, full)


def opened(x: np.ndarray, settings: Attention) -> np.ndarray:
    """Return the gates of attention's output, computed from the result of the gates' projections."""
    return np.logaddexp(0, x) if settings.softplus_gate else (1 + np.tanh(x / 2)) / 2


def _normed(a: np.ndarray, weight: np.ndarray | None, norm: Norm) -> np.ndarray:
    """Normalize each head. If the weight is one row for all heads, normalize all heads together."""
    heads, size = a.shape[2:]
    weight = np.ones(size) if weight is None else weight
    axes = (2, 3) if weight.shape == (heads * size,) else 3
    centred = a - a.mean(axes, keepdims=True) if isinstance(norm, LayerNorm) else a
    y = centred / np.sqrt((centred * centred).mean(axes, keepdims=True) + norm.eps)
    return y * (weight if weight.shape == (size,) else weight.reshape(heads, size))


@law("attention")
def the_sublayer_is_its_parts(attention: Subject, draw: Draw) -> None:
    """The attention sublayer equals its parts computed one by one: projections, norms of queries, keys and
    values, attention over the cache, gate, projection back."""
    call = draw(attention.calls(wq=True, wk=True, wo=True))
    x, settings = call["x"].astype(np.float64), call["settings"]
    shape = (*x.shape[:2], -1, settings.head_size)
    bound = np.inf if settings.clip is None else settings.clip
    maps = "qkk" if call["wv"] is None else "qkv"
    q, k, v = (np.clip(linear(x, call["w" + n], call["b" + n]).reshape(shape), -bound, bound) for n in maps)
    if settings.value_norm is not None:
        v = _normed(v, None, settings.value_norm)
    at, rotary = call["past"][:, None] + np.arange(x.shape[1]), call["rotary"]
    if settings.qk_norm is not None:
        if settings.qk_norm.rotated:
            turn = rotary.cos.astype(np.float64)[at], rotary.sin.astype(np.float64)[at]
            q, k = (rotate(a, *turn, interleaved=settings.interleaved) for a in (q, k))
            rotary = None
        q = _normed(q, call["q_norm"], settings.qk_norm.norm)
        k = _normed(k, call["k_norm"], settings.qk_norm.norm)
    if (scale := settings.query_scale) is not None:
        q = q * (1 + scale.beta * np.log(1 + (at + scale.offset) // scale.original_context))[..., None, None]
    terms = ScoreTerms(call["bias"], call["sink_logits"])
    y, cache = cached(q, k, v, call["cache"], call["past"], rotary, terms, settings=settings)
    y = y.reshape(*x.shape[:2], y.shape[2] * y.shape[3])
    y = y * (settings.value_scale or 1)
    if settings.output_gate:
        y = y * opened(linear(x, call["wg"], call["bg"]), settings)
    if settings.head_gate:
        y = y * np.repeat(opened(linear(x, call["w_head_gate"]), settings), settings.head_size, axis=-1)
    if settings.out_norm is not None:
        y = y / np.sqrt((y * y).mean(-1, keepdims=True) + settings.out_norm.eps) * call["out_norm"]
    attention.near(attention(call), (linear(y, call["wo"], call["bo"]), cache), call)
