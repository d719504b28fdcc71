"""Laws of latent attention: its two forms compute the same function, and its latents work as a cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..config import Indexer
from ..ops.activation import sigmoid
from ..ops.attention import attend
from ..ops.indexer import best_keys, index_scores
from ..ops.latent_attention import LatentCache
from ..ops.latent_attention import expanded_attend as expanded
from ..ops.latent_attention import latent_attention as cached
from ..ops.linear import linear
from ..ops.norm import layer_norm, rms_norm
from ..ops.position import rotate
from . import Draw, Subject, law
from .kit.strategies import permutations, splits


@law("absorbed_attend")
def absorbed_is_expanded(absorbed_attend: Subject, draw: Draw) -> None:
    """The absorbed form, which multiplies queries by Wᵏ, equals the expanded form, which multiplies
    latents by Wᵏ.
    """
    call = draw(absorbed_attend.calls())
    q, latents, wk_b, wv_b = (call[n].astype(np.float64) for n in ("q", "latents", "wk_b", "wv_b"))
    y = expanded(q, latents, wk_b, wv_b, call["mask"], scale=call["scale"])
    absorbed_attend.near(absorbed_attend(call), y, call)


@law("expanded_attend")
def each_head_has_keys_and_values_of_its_own(expanded_attend: Subject, draw: Draw) -> None:
    """The expanded form equals attention over the expanded keys and values, computed head by head."""
    call = draw(expanded_attend.calls())
    q, latents, wk_b, wv_b = (call[n].astype(np.float64) for n in ("q", "latents", "wk_b", "wv_b"))
    heads, rank = q.shape[2], len(wk_b)
    c, r = latents[..., :rank], latents[..., rank:]
    scale, ys = q.shape[3] ** -0.5 if call["scale"] is None else call["scale"], []
    for i, (wk, wv) in enumerate(zip(np.split(wk_b, heads, 1), np.split(wv_b, heads, 1), strict=True)):
        k = np.concatenate([c @ wk, r], -1)
        y = attend(q[:, :, i : i + 1], k[:, :, None], (c @ wv)[:, :, None], call["mask"], scale=scale)
        ys.append(y)
    expanded_attend.near(expanded_attend(call), np.concatenate(ys, 2), call)


@law("absorbed_attend", "expanded_attend")
def latents_are_a_set(attended: Subject, draw: Draw) -> None:
    """Latent attention doesn't depend on the order of latents, if the mask is permuted like the latents."""
    call = draw(attended.calls())
    other = attended.take(call, "S", draw(permutations(call["latents"].shape[1])))
    attended.near(attended(other), attended(call), other, call)


@law("latent_attention")
def any_split_of_the_tokens_is_one_pass(latent_attention: Subject, draw: Draw) -> None:
    """Two calls over the parts of a text give the same outputs and latents as one call."""
    call = draw(latent_attention.calls(T=5))
    cut = draw(splits(5))
    first = latent_attention.take(call, "T", range(cut))
    second = latent_attention.take(call, "T", range(cut, 5))
    y, cache, seen = latent_attention(first)
    second = second.but(cache=cache, past=call["past"] + cut)
    z, last, later = latent_attention(second)
    got = np.concatenate([y, z], 1), last, np.concatenate([seen, later], 1)
    latent_attention.near(got, latent_attention(call), call, first, second)


@law("latent_self_attention")
def causal_it_is_a_prompt(latent_self_attention: Subject, draw: Draw) -> None:
    """Causal latent attention over a whole text equals a call with an empty cache. For the last token, the
    result is the same without a causal mask.
    """
    call = draw(latent_self_attention.calls())
    (b, t, _), settings = call["x"].shape, replace(call["settings"], indexer=None)
    empty = LatentCache(np.zeros((b, 1, t, settings.rank + settings.key_dims), call["x"].dtype))
    inputs = call["x"], empty, np.zeros(b, np.int64), call["weights"], call["rotary"]
    expected, *_ = cached(*inputs, settings=settings)
    at, lengths = np.arange(t), call["lengths"][:, None]
    same = at < lengths if call["causal"] else at == lengths - 1
    got, expected = (np.where(same[:, :, None], y, 0) for y in (latent_self_attention(call), expected))
    latent_self_attention.near(got, expected, call)


@law("latent_attention")
def the_sublayer_is_its_parts(latent_attention: Subject, draw: Draw) -> None:
    """For a text's first tokens, the sublayer equals its parts computed one by one: projections, norms,
    rotations and expanded attention. Each token attends to the tokens up to itself. If this layer or
    another layer has an indexer for it, the token attends only to the tokens that the indexer chooses."""
    call = draw(latent_attention.calls(O=0))
    a, x = call["settings"], call["x"].astype(np.float64)
    b, t, _ = x.shape

    def turned(y: np.ndarray, interleaved: bool) -> np.ndarray:
        if a.position is None:
            return y
        angles = (call[n][:t].astype(np.float64) for n in ("cos", "sin"))
        cos, sin = (np.broadcast_to(angle, (b, t, a.key_dims // 2)) for angle in angles)
        return rotate(y, cos, sin, interleaved=interleaved)

    if call["wq_a"] is not None:
        source = rms_norm(linear(x, call["wq_a"], call["bq_a"]), call["q_norm"], eps=a.norm_eps)
    else:
        source = x
    q = linear(source, call["wq"]).reshape(b, t, a.heads, a.head_size)
    q[..., a.key_size :] = turned(q[..., a.key_size :], a.interleaved)
    kept = linear(x, call["wkv_a"], call["bkv_a"])
    kept[..., : a.rank] = rms_norm(kept[..., : a.rank], call["kv_norm"], eps=a.norm_eps)
    kept[..., : a.rank] *= a.latent_scale or 1
    kept[..., a.rank :] = turned(kept[..., None, a.rank :], a.interleaved)[:, :, 0]
    if (factors := a.query_scale) is not None:
        q = q * (1 + factors.beta * np.log(1 + np.arange(t) // factors.original_context))[:, None, None]
    logs = np.log(1 + np.arange(t))[:, None]
    if a.log_scale:
        q = q * (call["q_slope"] * logs + call["q_offset"])[:, :, None]
    causal = np.broadcast_to(np.tri(t, dtype=bool), (b, t, t))
    if isinstance(indexer := a.indexer, Indexer):
        key = linear(x, call["wk_index"])
        key = layer_norm(key, call["index_norm"], call["index_bias"], eps=indexer.eps)[:, :, None]
        if call["wq_a"] is None:
            source = layer_norm(x, call["index_q_norm"], call["index_q_bias"], eps=indexer.eps)
        index_q = linear(source, call["wq_index"]).reshape(b, t, indexer.heads, indexer.size)
        if a.log_scale:
            index_q *= (call["index_slope"] * logs + call["index_offset"])[:, :, None]
        for part in (key, index_q):
            part[..., : a.key_dims] = turned(part[..., : a.key_dims], indexer.interleaved)
        scores = index_scores(index_q, key[:, :, 0], linear(x, call["w_index"]))
        causal = best_keys(scores, causal, topk=indexer.topk)
    elif call["chosen"] is not None:
        causal = causal & call["chosen"][:, :, :t]
    y = expanded(q, kept, call["wk_b"], call["wv_b"], causal, scale=a.scale)
    if call["w_head_gate"] is not None:
        y = y * sigmoid(linear(x, call["w_head_gate"]))[..., None]
    got, *_ = latent_attention(call)
    latent_attention.near(got, linear(y.reshape(b, t, -1), call["wo"], call["bo"]), call)
