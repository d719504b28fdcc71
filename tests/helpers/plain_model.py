"""A model computed plainly: one text, one token after the other, in float64, without a cache.

It shares no code with the specification, so that a wrong composition of one isn't wrong in both. It reads a
Config and its tree of weights, and writes each formula out for one vector. What transformers has in every
form isn't here: BigBird's, Longformer's, LongT5's, XLNet's and disentangled attention, and scaled rotations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
from tfm.refimpl import config as c
from tfm.refimpl.ops.channel_mix import ChannelMix
from tfm.refimpl.ops.gated_delta import GatedDelta
from tfm.refimpl.ops.indexed_attention import IndexedAttention
from tfm.refimpl.ops.latent_attention import LatentAttention
from tfm.refimpl.ops.lightning import Lightning
from tfm.refimpl.ops.linear_attention import LinearAttention
from tfm.refimpl.ops.lstm import LSTM
from tfm.refimpl.ops.mamba import Mamba
from tfm.refimpl.ops.mamba2 import Mamba2
from tfm.refimpl.ops.ngram_memory import NgramMemory
from tfm.refimpl.ops.pooled_attention import PooledAttention
from tfm.refimpl.ops.rg_lru import RgLru
from tfm.refimpl.ops.shared_block import SharedBlock
from tfm.refimpl.ops.short_conv import ShortConv
from tfm.refimpl.ops.time_mix import TimeMix

Vector = np.ndarray
Vectors = list[np.ndarray]  # one of each token
Weights = dict[str, Any]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": lambda x: np.where(x > 0, x, 0.0),
    "relu_squared": lambda x: np.where(x > 0, x * x, 0.0),
    "sigmoid": lambda x: 1 / (1 + np.exp(np.minimum(-x, 700))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "tanh": np.tanh,
    "mish": lambda x: x * np.tanh(np.log(1 + np.exp(x))),
    "gelu": lambda x: np.array([0.5 * n * (1 + math.erf(n / math.sqrt(2))) for n in x]),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}
sigmoid, silu = ACTIVATIONS["sigmoid"], ACTIVATIONS["silu"]


def softplus(x: Any) -> Any:
    return np.log(1 + np.exp(x))


def linear(x: Vector, w: Weights, weight: str, bias: str = "") -> Vector:
    return x @ w[weight] + w.get(bias, 0.0)


def rms(x: Vector, eps: float, weight: Any = 1.0) -> Vector:
    return x / math.sqrt(np.mean(x**2) + eps) * weight


def norm(x: Vector, w: Weights | None, n: c.Norm | None) -> Vector:
    match n:
        case None:
            return x
        case c.RMSNorm():
            return rms(x, n.eps, (w or {}).get("weight", 1.0))
        case c.Affine():
            assert w is not None
            return x * w["weight"] + w["bias"]
        case c.LayerNorm():
            y = (x - np.mean(x)) / math.sqrt(np.mean((x - np.mean(x)) ** 2) + n.eps)
            return y * (w["weight"] if n.weight and w else 1.0) + (w["bias"] if n.bias and w else 0.0)


def turned(x: Vector, at: int, rope: c.Rope) -> Vector:
    """A head's numbers, the first of them rotated in pairs by angles that grow with the position."""
    pairs, y = rope.dims // 2, x.copy()
    for j in range(pairs):
        i, k = (2 * j, 2 * j + 1) if rope.interleaved else (j, j + pairs)
        angle = at * rope.theta ** (-j / pairs) * (1.0 if rope.factors is None else rope.factors[j])
        y[i] = x[i] * math.cos(angle) - x[k] * math.sin(angle)
        y[k] = x[k] * math.cos(angle) + x[i] * math.sin(angle)
    return y


def query_factor(at: int, scale: c.QueryScale | None) -> float:
    if scale is None:
        return 1.0
    return 1 + scale.beta * math.log(1 + (at + scale.offset) // scale.original_context)


def sees(query: int, key: int, mask: c.Mask, causal: bool) -> bool:
    if causal and key > query:
        return False
    match mask:
        case c.Window(size, later):
            return query - key < size and key - query < (later or size)
        case c.Chunked(size):
            return query // size == key // size
        case c.BlockSparse(block, reach, first):
            q, k = query // block, key // block
            return abs(q - k) <= reach or q < first or k < first
    return True


def alibi(query: int, key: int, head: int, heads: int, position: c.Alibi) -> float:
    power = 1
    while 2 * power <= heads:
        power *= 2
    step = (head + 1) / power if head < power else (2 * (head - power) + 1) / (2 * power)
    return -position.scale * 2.0 ** (-position.max_bias * step) * abs(query - key)


def bucket(query: int, key: int, position: c.RelativeBias, causal: bool) -> int:
    count, first, distance = position.buckets, 0, query - key
    if not causal:
        count //= 2
        first = count if key > query else 0
        distance = abs(distance)
    exact = count // 2
    if distance < exact:
        return first + max(distance, 0)
    far = np.log(distance / exact) / np.log(position.max_distance / exact) * (count - exact)
    return first + min(exact + int(far), count - 1)


def shares(scores: list[float], sink: float | None = None) -> list[float]:
    """A softmax over keys, of which a sink may take a part."""
    top = max([*scores, *([] if sink is None else [sink])])
    odds = [math.exp(score - top) for score in scores]
    total = sum(odds) + (0 if sink is None else math.exp(sink - top))
    return [one / total for one in odds]


def log_shares(scores: Vector) -> Vector:
    return scores - np.max(scores) - np.log(np.sum(np.exp(scores - np.max(scores))))


def read_keys(
    q: Vector, keys: Vectors, values: Vectors, a: c.Attention, bias: list[float], sink: float | None = None
) -> Vector:
    """The mean of values, weighed by the products of a query and the keys that it sees."""
    scores = []
    for key, more in zip(keys, bias, strict=True):
        score = float(q @ key) * (a.scale or 1 / math.sqrt(a.head_size))
        if a.softcap is not None:
            score = a.softcap * math.tanh(score / a.softcap)
        scores.append(score + more)
    return np.sum([share * value for share, value in zip(shares(scores, sink), values, strict=True)], 0)


def normed_heads(heads: Vector, weight: Any, h: c.HeadNorm) -> Vector:
    """Queries or keys [H, K] of a token, each head normalized or all together."""

    def one(x: Vector, w: Any) -> Vector:
        return norm(x, None if w is None else {"weight": w}, h.norm)  # fmt: skip

    if h.over == "all":
        return one(heads.reshape(-1), weight).reshape(heads.shape)
    return np.array([one(x, weight[i] if h.over == "each" else weight) for i, x in enumerate(heads)])


def keys_and_values(xs: Vectors, w: Weights, a: c.Attention) -> tuple[Vectors, Vectors]:
    keys, values = [], []
    for at, x in enumerate(xs):
        k = linear(x, w, "wk", "bk").reshape(a.kv_heads, a.head_size)
        v = k if a.keys_as_values else linear(x, w, "wv", "bv").reshape(k.shape)
        if a.clip is not None:
            k, v = np.clip(k, -a.clip, a.clip), np.clip(v, -a.clip, a.clip)
        if a.value_norm is not None:
            v = np.array([rms(head, a.value_norm.eps) for head in v])
        keys.append(positioned(k, at, w.get("k_norm"), a))
        values.append(v)
    if a.kv != "float":
        if a.kv == "int4":
            values = [turned_by_signs(one) for one in values]
        top = 128 if a.kv == "int8" else 8
        for kept, scale in ((keys, w["k_scale"]), (values, w["v_scale"])):
            kept[:] = [np.clip(np.round(one / scale), -top, top - 1) * scale for one in kept]
    if a.kv == "int4":  # in exact numbers it doesn't matter when values are turned back
        values = [turned_by_signs(one) for one in values]
    return keys, values


def turned_by_signs(heads: Vector) -> Vector:
    """Heads by Hadamard's matrix of as many rows as the largest power of two that divides their size: number
    (i, j) is −1 where i and j have an odd number of ones in common."""
    size = heads.shape[-1] & -heads.shape[-1]
    signs = [[(-1.0) ** (i & j).bit_count() for j in range(size)] for i in range(size)]
    parts = heads.reshape(len(heads), -1, size)
    return (parts @ np.array(signs) / size**0.5).reshape(heads.shape)


def positioned(heads: Vector, at: int, weight: Any, a: c.Attention) -> Vector:
    """Heads normalized and rotated, in the order that the Config says."""
    if a.qk_norm is not None and not a.qk_norm.rotated:
        heads = normed_heads(heads, weight, a.qk_norm)
    if isinstance(a.position, c.Rope):
        heads = np.array([turned(head, at, a.position) for head in heads])
    if a.qk_norm is not None and a.qk_norm.rotated:
        heads = normed_heads(heads, weight, a.qk_norm)
    return heads


def attention(
    xs: Vectors, w: Weights, a: c.Attention, kv: Any, table: Any, causal: bool, others: Any = ((), ())
) -> Vectors:
    out, gate = [], softplus if a.softplus_gate else sigmoid
    for t, x in enumerate(xs):
        q = linear(x, w, "wq", "bq").reshape(a.heads, a.head_size)
        q = q if a.clip is None else np.clip(q, -a.clip, a.clip)
        q = positioned(q, t, w.get("q_norm"), a) * query_factor(t, a.query_scale)
        seen, heads = [s for s in range(len(xs)) if sees(t, s, a.mask, causal)], []
        for h in range(a.heads):
            group, bias = h // (a.heads // a.kv_heads), [0.0] * len(seen)
            if isinstance(a.position, c.Alibi):
                bias = [alibi(t, s, h, a.heads, a.position) for s in seen]
            elif isinstance(a.position, c.RelativeBias):
                rows = w["relative_bias"] if not a.position.shared else table
                bias = [rows[bucket(t, s, a.position, causal), h] for s in seen]
            sink = w["sink_logits"][h] if a.sink_logits else None
            of = [
                [own[s][group] for s in seen] + [one[group] for one in more]
                for own, more in zip(kv, others, strict=True)
            ]
            heads.append(read_keys(q[h], *of, a, bias + [0.0] * len(others[0]), sink))
            if a.head_gate:
                heads[-1] = heads[-1] * gate(x @ w["w_head_gate"][:, h])
        y = np.concatenate(heads) * (1.0 if a.value_scale is None else a.value_scale)
        if a.output_gate:
            y = y * gate(linear(x, w, "wg", "bg"))
        if a.out_norm is not None:
            y = rms(y, a.out_norm.eps, w["out_norm"])
        out.append(linear(y, w, "wo", "bo"))
    return out


def cross_attention(x: Vector, states: Vectors, w: Weights, a: c.Attention) -> Vector:
    q = linear(x, w, "wq", "bq").reshape(a.heads, a.head_size)
    keys = [linear(state, w, "wk", "bk").reshape(a.kv_heads, -1) for state in states]
    values = [linear(state, w, "wv", "bv").reshape(a.kv_heads, -1) for state in states]
    heads = []
    for h in range(a.heads):
        g = h // (a.heads // a.kv_heads)
        heads.append(read_keys(q[h], [k[g] for k in keys], [v[g] for v in values], a, [0.0] * len(keys)))
    return linear(np.concatenate(heads), w, "wo", "bo")


def linear_attention(xs: Vectors, w: Weights, a: LinearAttention) -> Vectors:
    """Each query's product with each key before it, of features that are positive."""
    phi = (lambda x: np.where(x > 0, x + 1, np.exp(x))) if a.features == "elu" else ACTIVATIONS["relu"]
    qs = [phi(linear(x, w, "wq", "bq")).reshape(a.heads, -1) for x in xs]
    ks = [phi(linear(x, w, "wk", "bk")).reshape(a.kv_heads, -1) for x in xs]
    vs = [linear(x, w, "wv", "bv").reshape(a.kv_heads, -1) for x in xs]
    out = []
    for t, q in enumerate(qs):
        heads = []
        for h in range(a.heads):
            g = h // (a.heads // a.kv_heads)
            weights = [float(q[h] @ ks[s][g]) for s in range(t + 1)]
            mean = sum(weight * vs[s][g] for s, weight in enumerate(weights))
            heads.append(mean / (sum(weights) or 1.0))
        out.append(linear(np.concatenate(heads), w, "wo", "bo"))
    return out


def lstm(xs: Vectors, w: Weights, a: LSTM) -> Vectors:
    h = cell = np.zeros(a.width)
    out = []
    for x in xs:
        i, f, g, o = (x @ w["wx"] + h @ w["wh"] + w.get("bias", 0.0)).reshape(4, a.width)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(cell)
        out.append(linear(h, w, "wo", "bo"))
    return out


def convolved(xs: Vectors, w: Weights) -> Vectors:
    """Each number over the latest tokens; the kernel's last row is for the token itself."""
    out = []
    for t in range(len(xs)):
        latest = [row * xs[t - back] for back, row in enumerate(w["conv"][::-1]) if back <= t]
        out.append(sum(latest) + w.get("conv_bias", 0.0))
    return out


def short_conv(xs: Vectors, w: Weights, a: ShortConv) -> Vectors:
    parts = [linear(x, w, "wi", "bi").reshape(3, a.width) for x in xs]
    mixed = convolved([b * v for b, _, v in parts], w)
    return [linear(parts[t][1] * y, w, "wo", "bo") for t, y in enumerate(mixed)]


def gated_delta(xs: Vectors, w: Weights, a: GatedDelta) -> Vectors:
    """What a key is, is read before it is written: a state's error for it is taken out."""
    keys, state, out = a.key_heads * a.key_size, np.zeros((a.heads, a.key_size, a.value_size)), []
    mixed = convolved([x @ w["wi"] for x in xs], w)
    for x, m in zip(xs, mixed, strict=True):
        m = silu(m)
        q, k = (part.reshape(a.key_heads, a.key_size) for part in (m[:keys], m[keys : 2 * keys]))
        v, beta = m[2 * keys :].reshape(a.heads, a.value_size), sigmoid(x @ w["wb"])
        speed = (x @ w["wa"] if a.rank is None else x @ w["wa_a"] @ w["wa"]) + w["dt_bias"]
        gate = x @ w["wz"] if a.rank is None else x @ w["wz_a"] @ w["wz"]
        gate, speeds, heads = (
            (sigmoid if a.fine or a.sigmoid_gate else silu)(gate),
            speed.reshape(a.heads, -1),
            [],
        )
        for h in range(a.heads):
            g = h // (a.heads // a.key_heads)
            query, key = (one[g] / math.sqrt(one[g] @ one[g] + 1e-6) for one in (q, k))
            rate = math.exp(w["a_log"][h])
            decay = (
                -rate * softplus(speeds[h])
                if a.max_decay is None
                else -a.max_decay * sigmoid(rate * speeds[h])
            )
            state[h] *= np.exp(decay)[:, None]
            write = (2 if a.allow_neg_eigval else 1) * beta[h] * (v[h] - key @ state[h])
            state[h] += np.outer(key, write)
            heads.append(rms(query @ state[h] / math.sqrt(a.key_size), a.eps, w["norm"]))
        out.append((np.concatenate(heads) * gate) @ w["wo"])
    return out


def lightning(xs: Vectors, w: Weights, a: Lightning) -> Vectors:
    """Each query's product with each key before it, less the older the key is."""
    act, out = ACTIVATIONS[a.activation], []
    qs, ks, vs = zip(*(act(x @ w["wi"]).reshape(3, a.heads, -1) for x in xs), strict=True)
    for t, x in enumerate(xs):
        heads = [
            sum(math.exp(-rate * (t - s)) * float(qs[t][h] @ ks[s][h]) * vs[s][h] for s in range(t + 1))
            for h, rate in enumerate(a.speed * 2.0 ** (-8.0 * (n + 1) / a.heads) for n in range(a.heads))
        ]
        out.append((rms(np.concatenate(heads), a.eps, w["norm"]) * sigmoid(x @ w["wz"])) @ w["wo"])
    return out


def mamba(xs: Vectors, w: Weights, a: Mamba) -> Vectors:
    state, out = np.zeros((a.width, a.state_size)), []
    mixed = convolved([linear(x, w, "wi", "bi") for x in xs], w)
    for x, u in zip(xs, map(silu, mixed), strict=True):
        dt, b, q = u @ w["wdt_a"], u @ w["wb"], u @ w["wc"]
        if a.norms is not None:
            names = ("dt_norm", "b_norm", "c_norm")
            dt, b, q = (
                rms(one, a.eps, w.get(name, 1.0)) for one, name in zip((dt, b, q), names, strict=True)
            )
        step, y = softplus(dt @ w["wdt"] + w["dt_bias"]), np.zeros(a.width)
        for f in range(a.width):
            state[f] = np.exp(-step[f] * np.exp(w["a_log"][f])) * state[f] + step[f] * u[f] * b
            y[f] = state[f] @ q + w["skip"][f] * u[f]
        out.append(linear(y * silu(linear(x, w, "wz", "bz")), w, "wo", "bo"))
    return out


def rg_lru(xs: Vectors, w: Weights, a: RgLru) -> Vectors:
    h, out = np.zeros(a.heads * a.head_size), []
    mixed = convolved([linear(x, w, "wi", "bi") for x in xs], w)
    for t, (x, u) in enumerate(zip(xs, mixed, strict=True)):
        i, r = (
            sigmoid(np.concatenate([part @ m + b for part, m, b in zip(
                u.reshape(a.heads, -1), w[f"w_{name}"], w[f"b_{name}"], strict=True)]))
            for name in ("input", "decay")
        )  # fmt: skip
        fade = np.exp(-8 * r * softplus(w["forget"]))
        h = fade * h + (np.sqrt(1 - fade**2) if t else 1) * i * u
        out.append(linear(h * ACTIVATIONS[a.activation](linear(x, w, "wz", "bz")), w, "wo", "bo"))
    return out


def with_earlier(xs: Vectors, share: Vector) -> Vectors:
    """Each vector mixed with the one before it."""
    return [share * x + (1 - share) * y for x, y in zip(xs, [0 * xs[0], *xs], strict=False)]


def time_mix(xs: Vectors, w: Weights, a: TimeMix) -> Vectors:
    """Each pair of tokens has a weight; the sum of these is 1."""
    ks, vs, rs = ([x @ w[f"w{n}"] for x in with_earlier(xs, w[f"mix_{n}"])] for n in ("k", "v", "r"))
    out = []
    for t, r in enumerate(rs):
        logs = [k - (t - 1 - s) * np.exp(w["log_rate"]) for s, k in enumerate(ks[:t])] + [ks[t] + w["bonus"]]
        weights = np.exp(logs - np.max(logs, axis=0))
        out.append(sigmoid(r) * (weights * vs[: t + 1]).sum(0) / weights.sum(0) @ w["wo"])
    return out


def channel_mix(xs: Vectors, w: Weights, a: ChannelMix) -> Vectors:
    units, gates = with_earlier(xs, w["mix_units"]), with_earlier(xs, w["mix_gate"])
    return [
        sigmoid(g @ w["w_gate"]) * (ACTIVATIONS["relu_squared"](u @ w["w_units"]) @ w["w_down"])
        for u, g in zip(units, gates, strict=True)
    ]


def mamba2(xs: Vectors, w: Weights, a: Mamba2) -> Vectors:
    width, keys = a.heads * a.head_size, a.groups * a.state_size
    of_z, of_v, of_b, of_c, of_dt = a.multipliers or (1.0,) * 5
    factors = np.array([of_v] * width + [of_b] * keys + [of_c] * keys)
    mixed = convolved([linear(x, w, "wi", "bi") * factors for x in xs], w)
    state, out = np.zeros((a.heads, a.state_size, a.head_size)), []
    for x, m in zip(xs, map(silu, mixed), strict=True):
        v = m[:width].reshape(a.heads, a.head_size)
        b, q = m[width : width + keys].reshape(a.groups, -1), m[width + keys :].reshape(a.groups, -1)
        step, y = softplus(linear(x, w, "wdt", "bdt") * of_dt + w["dt_bias"]), np.zeros(v.shape)
        for h in range(a.heads):
            g = h // (a.heads // a.groups)
            state[h] = math.exp(-step[h] * math.exp(w["a_log"][h])) * state[h] + np.outer(
                b[g], step[h] * v[h]
            )
            y[h] = q[g] @ state[h] + w["skip"][h] * v[h]
        gate, y = silu(linear(x, w, "wz", "bz") * of_z), y.reshape(-1)
        y = y * gate if a.norm != "before_gate" else y
        if a.norm is not None:
            y = np.concatenate([rms(group, a.eps) for group in y.reshape(a.groups, -1)]) * w["norm"]
        out.append(linear(y * gate if a.norm == "before_gate" else y, w, "wo", "bo"))
    return out


def log_factors(at: int, w: Weights, name: str) -> Vector:
    """The factors of each head's queries at a position."""
    return w[f"{name}_slope"] * math.log(at + 1) + w[f"{name}_offset"]


def best_keys(xs: Vectors, sources: Vectors, w: Weights, a: LatentAttention) -> list[list[int]]:
    """Which keys each token sees: those with the best sums over narrow heads, of equal ones the earlier."""
    i = a.indexer
    assert isinstance(i, c.Indexer)

    def normed(x: Vector, name: str) -> Vector:
        return norm(x, {"weight": w[f"{name}_norm"], "bias": w[f"{name}_bias"]}, c.LayerNorm(i.eps))

    def angle(x: Vector, at: int) -> Vector:
        return x if a.position is None else turned(x, at, replace(a.position, interleaved=i.interleaved))

    keys, chosen = [angle(normed(x @ w["wk_index"], "index"), s) for s, x in enumerate(xs)], []
    for t, x in enumerate(xs):
        source = normed(x, "index_q") if a.query_rank is None else sources[t]
        qs = (source @ w["wq_index"]).reshape(i.heads, i.size)
        qs = qs * log_factors(t, w, "index")[:, None] if a.log_scale else qs
        qs = [angle(q, t) for q in qs]
        weighed = list(zip(x @ w["w_index"], qs, strict=True))
        scores = [sum(weight * max(0.0, q @ keys[s]) for weight, q in weighed) for s in range(t + 1)]
        chosen.append(sorted(sorted(range(t + 1), key=lambda s: (-scores[s], s))[: i.topk]))
    return chosen


def latent_attention(xs: Vectors, w: Weights, a: LatentAttention, causal: bool, memo: dict) -> Vectors:
    """Each head's keys and values are made of a latent, with one rotated part of the key for all heads."""
    latents, rotary, sources, out = [], [], [], []

    def angle(x: Vector, at: int) -> Vector:
        return x if a.position is None else turned(x, at, a.position)

    for t, x in enumerate(xs):
        both = linear(x, w, "wkv_a", "bkv_a")
        latents.append(rms(both[: a.rank], a.norm_eps, w["kv_norm"]) * (a.latent_scale or 1.0))
        rotary.append(angle(both[a.rank :], t))
        own = x if a.query_rank is None else rms(linear(x, w, "wq_a", "bq_a"), a.norm_eps, w["q_norm"])
        sources.append(own)
    if isinstance(a.indexer, c.Indexer):
        memo["chosen"] = best_keys(xs, sources, w, a)
    for t in range(len(xs)):
        seen = [s for s in range(len(xs)) if s <= t or not causal]
        seen = seen if a.indexer is None else memo["chosen"][t]
        q, heads = (sources[t] @ w["wq"]).reshape(a.heads, -1) * query_factor(t, a.query_scale), []
        q = q * log_factors(t, w, "q")[:, None] if a.log_scale else q
        for h in range(a.heads):
            wk = w["wk_b"].reshape(a.rank, a.heads, a.key_size)[:, h]
            wv = w["wv_b"].reshape(a.rank, a.heads, a.value_size)[:, h]
            plain, turning = q[h, : a.key_size], angle(q[h, a.key_size :], t)
            scale = a.scale or 1 / math.sqrt(len(q[h]))
            weights = shares([scale * float(plain @ (latents[s] @ wk) + turning @ rotary[s]) for s in seen])
            heads.append(sum(weight * (latents[s] @ wv) for s, weight in zip(seen, weights, strict=True)))
        if a.head_gate:
            heads = [y * g for y, g in zip(heads, sigmoid(xs[t] @ w["w_head_gate"]), strict=True)]
        out.append(linear(np.concatenate(heads), w, "wo", "bo"))
    return out


def indexed_attention(xs: Vectors, w: Weights, a: IndexedAttention) -> Vectors:
    """Each key head's queries see the tokens of the blocks in which that head's index query has its largest
    products, and of the latest ones."""

    def made(x: Vector, t: int, name: str, size: int) -> Vectors:
        rows = (x @ w[f"w{name}"]).reshape(-1, size)
        return [turned(rms(row, a.norm_eps, w[f"{name}_norm"]), t, a.position) for row in rows]

    i, size, out = a.indexer, a.head_size, []
    keys = [made(x, t, "k", size) for t, x in enumerate(xs)]
    values = [(x @ w["wv"]).reshape(-1, size) for x in xs]
    index_keys = [made(x, t, "k_index", i.size)[0] for t, x in enumerate(xs)]
    for t, x in enumerate(xs):
        q, index_q, heads = made(x, t, "q", size), made(x, t, "q_index", i.size), []
        for g in range(a.kv_heads):
            best: dict[int, float] = {}
            for s in range(t + 1):
                near = t // i.block - s // i.block < i.local
                score = math.inf if near else float(index_q[g] @ index_keys[s])
                best[s // i.block] = max(best.get(s // i.block, -math.inf), score)
            chosen = sorted(best, key=lambda block: (-best[block], block))[: i.topk]
            seen = [s for s in range(t + 1) if s // i.block in chosen]
            for h in range(g * a.heads // a.kv_heads, (g + 1) * a.heads // a.kv_heads):
                weights = shares([float(q[h] @ keys[s][g]) / math.sqrt(size) for s in seen])
                heads.append(sum(weight * values[s][g] for s, weight in zip(seen, weights, strict=True)))
        out.append(np.concatenate(heads) @ w["wo"])
    return out


def pooled_attention(xs: Vectors, w: Weights, i: PooledAttention) -> Vectors:
    """Each token's attention to the blocks whose mean keys it likes best, and to the tokens after whole
    blocks."""
    a, size, out = i.attention, i.block_size, []
    assert isinstance(a.position, c.Rope)
    raw, (keys, values) = [x @ w["wk_index"] for x in xs], keys_and_values(xs, w, a)
    for t, x in enumerate(xs):
        whole = (t + 1) // size
        qs = [rms(q, i.index_eps, w["index_q_norm"]) for q in (x @ w["wq_index"]).reshape(i.index_heads, -1)]
        scores = []
        for block in range(whole):
            mean = np.mean(raw[block * size : (block + 1) * size], 0)
            key = turned(rms(mean, i.index_eps, w["index_k_norm"]), block * size, a.position)
            scores.append(sum(max(0.0, float(turned(q, t, a.position) @ key)) for q in qs))
        best = sorted(range(whole), key=lambda block: (-scores[block], block))[: i.blocks]
        seen = [s for s in range(t + 1) if s // size in best or s >= whole * size]
        q = linear(x, w, "wq", "bq").reshape(a.heads, a.head_size)
        q, heads = positioned(q, t, w.get("q_norm"), a), []
        for h in range(a.heads):
            g = h // (a.heads // a.kv_heads)
            mine = [keys[s][g] for s in seen], [values[s][g] for s in seen]
            heads.append(read_keys(q[h], *mine, a, [0.0] * len(seen)))
        y = np.concatenate(heads)
        y = y * sigmoid(linear(x, w, "wg", "bg")) if a.output_gate else y
        out.append(linear(y, w, "wo", "bo"))
    return out


def ngram_memory(xs: Vectors, w: Weights, a: NgramMemory, tokens: Any) -> Vectors:
    """What rows of the table add to each stream [X, D] of a token; integers here are as long as they need
    be."""
    reach, values, convolved = len(a.multipliers), [], []
    each = len(a.primes) // (reach - 1)
    text = [a.end] * (reach - 1) + [int(token) for token in tokens]
    for t, x in enumerate(xs):
        ngram, rows = [text[t + reach - 1]], []
        for back in range(1, reach):
            before = text[t + reach - 1 - back]
            ngram.append(a.end if back > 1 and ngram[-1] == a.end else before)
            hashed = 0
            for factor, token in zip(a.multipliers, ngram, strict=False):
                hashed ^= factor * token
            for head in range((back - 1) * each, back * each):
                rows.append(w["table"][sum(a.primes[:head]) + hashed % a.primes[head]])
        e = np.concatenate(rows)
        keys, value = (e @ w["w_key"]).reshape(x.shape), e @ w["w_value"]
        leaf = {name: w[f"{name}_norm"].reshape(x.shape) for name in ("key", "query", "conv")}
        gated = []
        for i in range(len(x)):
            product = rms(keys[i], a.eps, leaf["key"][i]) @ rms(x[i], a.eps, leaf["query"][i])
            product /= math.sqrt(len(value))
            size = math.sqrt(max(abs(product), 1e-6))
            gated.append(sigmoid(math.copysign(size, product)) * value)
        values.append(np.array(gated))
        convolved.append(np.array([rms(one, a.eps, leaf["conv"][i]) for i, one in enumerate(gated)]))
    out, taps = [], w["memory_conv"].reshape(-1, *xs[0].shape)
    for t in range(len(xs)):
        back = [t - (len(taps) - 1 - j) * reach for j in range(len(taps))]
        near = sum(taps[j] * convolved[s] for j, s in enumerate(back) if s >= 0)
        out.append(values[t] + silu(near))
    return out


def mix_streams(x: Vector, w: Weights | None, h: Any) -> tuple[Vector, Vector | None]:
    """What a sublayer reads of a token's streams [X, D], and how much each stream gets of its output."""
    if w is None:
        return x, None
    normed = np.concatenate([rms(one, h.norm.eps) for one in x]) * w["norm"]
    gates = sigmoid(silu(normed @ w["down"] / len(x)) @ w["up"])
    opened = 2 * sigmoid(normed @ w["open"] / len(x)) if "open" in w else None
    return np.mean((gates * normed).reshape(x.shape), 0), opened


def shared_block(xs: Vectors, w: Weights, a: SharedBlock, embedding: Vectors) -> Vectors:
    def normed(x: Vector, name: str, part: Any) -> Vector:
        return norm(x, {"weight": w[f"{name}_norm"]}, part.pre)

    pairs = [np.concatenate([x, e]) for x, e in zip(xs, embedding, strict=True)]
    read, maps = [normed(pair, "attention", a.attention) for pair in pairs], {"wo": w["w_heads"]}
    maps |= {name: w[name] for name in ("wq", "wk", "wv")}
    y = attention(read, maps, a.attention, keys_and_values(read, maps, a.attention), None, True)
    y = [feed(normed(one, "mlp", a.mlp), w["mlp"], a.mlp.activation) @ w["w_shared"] for one in y]
    return mamba2([normed(x + t, "mamba", a.mamba) for x, t in zip(xs, y, strict=True)], w, a.mamba)


def feed(x: Vector, w: Weights, kind: Any, m: Any = None) -> Vector:
    """A mlp, gated where it has a gate; `m` are the options of a gated one that is no expert."""
    up = linear(x, w, "up", "bup")
    if isinstance(kind, c.XIELU):
        a, b = softplus(w["alpha_p"][0]), kind.beta + softplus(w["alpha_n"][0])
        below = b * (np.expm1(np.minimum(up, kind.eps)) - up)
        hidden = np.where(up > 0, a * up * up, below) + kind.beta * up
    elif "gate" not in w:
        hidden = ACTIVATIONS[kind](up)
    else:
        gate = linear(x, w, "gate", "bgate")
        if m is not None and m.gate_scale is not None:
            gate = gate * m.gate_scale
        if m is not None and m.sparsity is not None:
            cut = np.mean(gate) + NormalDist().inv_cdf(m.sparsity) * math.sqrt(
                np.mean((gate - np.mean(gate)) ** 2)
            )
            gate = np.where(gate > cut, gate - cut, 0.0)
        if isinstance(kind, c.SwiGLUStep):
            hidden = np.minimum(silu(gate), kind.limit) * np.clip(up, -kind.limit, kind.limit)
        elif isinstance(kind, c.SwiGLUOAI):
            g = np.where(gate > kind.limit, kind.limit, gate)
            hidden = g * sigmoid(kind.alpha * g) * (np.clip(up, -kind.limit, kind.limit) + 1)
        else:
            hidden = ACTIVATIONS[kind](gate) * up
        if m is not None and m.down_norm is not None:
            hidden = rms(hidden, m.down_norm.eps, w["down_norm"])
    return linear(hidden, w, "down", "bdown")


def routed(x: Vector, w: Weights, m: c.MoE) -> dict[int, float]:
    """The experts of a token, the best first, and how much of each."""
    own = m.own_norms is not None
    asked = rms(x, m.own_norms.eps, w["router_norm"]) / math.sqrt(len(x)) if own else x
    logits = linear(asked, w, "router", "router_bias")
    if isinstance(m.score, c.SparseMixer):
        left, chosen = dict(enumerate(logits)), {}
        for _ in range(m.top):
            best = max(left, key=lambda e: (left[e], -e))
            bound = {e: 2 * m.score.jitter * max(abs(logits[e]), logits[best]) for e in left}
            near = [e for e in left if logits[best] - logits[e] <= bound[e]]
            chosen[best] = 1 / sum(math.exp(logits[e] - logits[best]) for e in near)
            del left[best]
        return chosen
    scores = np.array(shares(list(logits))) if m.score == "softmax" else sigmoid(logits)
    choice = scores + w["bias"] if m.choice_bias else scores
    size, allowed = m.experts // m.groups.count, set(range(m.experts + m.identities))
    if m.groups.count > 1:
        best = [sorted(choice[g * size : (g + 1) * size])[::-1] for g in range(m.groups.count)]
        worth = [values[0] if m.groups.by == "max" else values[0] + values[1] for values in best]
        groups = sorted(range(m.groups.count), key=lambda g: -worth[g])[: m.groups.top]
        allowed = {e for e in allowed if e // size in groups}
    chosen = sorted(allowed, key=lambda e: (-choice[e], e))[: m.top]
    total = sum(scores[e] for e in chosen) + (m.sum_eps or 0.0) if m.renormalize else 1.0
    return {e: scores[e] / total * (1.0 if m.scale is None else m.scale) for e in chosen}


def with_room(choices: list[dict[int, float]], m: c.MoE, capacity: int) -> list[dict[int, float]]:
    """What is left of tokens' choices where an expert takes `capacity` % of an even share of them."""
    every = m.experts + m.identities
    room = dict.fromkeys(range(every), math.ceil(capacity * m.top * len(choices) / (100 * every)))
    kept: list[dict[int, float]] = [{} for _ in choices]
    for rank in range(m.top):
        for mine, choice in zip(kept, choices, strict=True):
            expert = list(choice)[rank]
            if room[expert] > 0 or expert >= m.experts:
                room[expert] -= 1
                mine[expert] = choice[expert]
    return kept


def mixture(x: Vector, w: Weights, m: c.MoE, chosen: dict[int, float]) -> tuple[Vector, Vector | float]:
    """The sum of the experts, and what the shared one adds."""
    own, eps = m.own_norms is not None, 0.0 if m.own_norms is None else m.own_norms.eps
    read = rms(x, eps, w["experts_pre"]) if own else x
    if m.latent is not None:
        read = linear(read, w, "latent_down", "latent_bdown")
    y = np.zeros_like(read)
    for e, share in chosen.items():
        if e >= m.experts:  # an identity
            y = y + share * x
            continue
        share, expert = share * (w["expert_scale"][e] if m.expert_scale else 1.0), w["experts"][e]
        y = y + (
            feed(share * read, expert, m.activation)
            if m.weighs == "input"
            else share * feed(read, expert, m.activation)
        )
    if m.latent is not None:
        y = linear(y, w, "latent_up", "latent_bup")
    y = rms(y, eps, w["experts_post"]) if own else y
    if m.shared is None:
        return y, 0.0
    common = feed(
        rms(x, eps, w["shared_pre"]) if own else x, w["shared"], m.shared_activation or m.activation
    )
    common = rms(common, eps, w["shared_post"]) if own else common
    return y, (sigmoid(x @ w["shared_gate"]) if m.shared_gate else 1.0) * common


def mlp(x: Vector, w: Weights, m: Any, late: Vectors) -> Vector:
    """What it gives now; what the next layer adds comes last in `late`."""
    if isinstance(m, c.MoE):
        y, common = mixture(x, w, m, routed(x, w, m))
        if m.late:
            late.append(y)
            y = np.zeros_like(y)
        return (y + common) / (2 if m.average else 1)
    if isinstance(m, c.Plain):
        return feed(x, w, m.activation)
    return feed(x, w, m.activation, m) * (1.0 if m.scale is None else m.scale)


def mixed(
    xs: Vectors, w: Weights, a: c.TokenMixer, memo: dict, causal: bool, another: Any = ((), ())
) -> Vectors:
    """The sublayer that moves information between tokens. `memo` has what layers share, `another` the keys
    and values of another text."""
    match a:
        case c.Attention():
            kv = memo["kv"][a.kv_layer] if a.kv_layer is not None else keys_and_values(xs, w, a)
            memo["kv"].append(kv)
            return attention(xs, w, a, kv, memo.get("relative_bias"), causal, another)
        case LatentAttention():
            memo["kv"].append(None)
            return latent_attention(xs, w, a, causal, memo)
        case NgramMemory():
            memo["kv"].append(None)
            return ngram_memory(xs, w, a, memo["tokens"])
        case SharedBlock():
            memo["kv"].append(None)
            return shared_block(xs, w, a, memo["embedding"])
    memo["kv"].append(None)
    others: dict[type, Callable[..., Vectors]] = {
        LinearAttention: linear_attention, LSTM: lstm, ShortConv: short_conv, GatedDelta: gated_delta,
        IndexedAttention: indexed_attention, PooledAttention: pooled_attention, Lightning: lightning,
        Mamba: mamba, Mamba2: mamba2, RgLru: rg_lru, TimeMix: time_mix, ChannelMix: channel_mix,
    }  # fmt: skip
    return others[type(a)](xs, w, a)


def near(xs: Vectors, t: int, w: Weights, conv: c.NeighbourConv) -> Vector:
    """A convolution over the token and its neighbours, of those that are there."""
    y, width = w.get("bias", 0.0), len(xs[0])
    for j in range(2 * conv.neighbours + 1):
        if 0 <= (s := t - conv.neighbours + j) < len(xs):
            y = y + xs[s] @ w["weight"][j * width : (j + 1) * width]
    return ACTIVATIONS[conv.activation](y)


def modes(x: Vector, w: Weights, a: c.AltUp) -> Vector:
    return np.tanh(rms(x, a.norm.eps, w["norm"]) / len(x) @ w["router"])


def through(
    xs: Vectors, w: Weights, layer: c.Layer, memo: dict, causal: bool, states: Vectors | None, own: Any
) -> Vectors:
    """The vectors after a layer; with alternating updates or hyper-connections xs are the streams [X, D] of
    each token."""
    times = lambda y, factor: y if factor is None else y * factor  # noqa: E731
    streams = xs
    if (alt := layer.altup) is not None:
        p = [
            (modes(x[alt.active], w["altup"], alt) @ w["altup"]["predict"]).reshape(alt.streams, -1)
            for x in xs
        ]
        streams = [x + p[t] @ x for t, x in enumerate(xs)]
        xs = [x[alt.active] for x in streams]
    pairs = [mix_streams(x, w.get("attn_hyper"), layer.hyper) for x in xs]
    read = [norm(source, w.get("attn_pre"), layer.attention.pre) for source, _ in pairs]
    others: Any = ((), ())
    if layer.merged:
        assert layer.cross is not None
        others = keys_and_values(states or [], w["cross"], layer.cross)
    y = mixed(
        [times(r, layer.beside and layer.beside.attention_in) for r in read],
        w["attn"],
        layer.attention,
        memo,
        causal,
        others,
    )
    if (b := layer.beside) is not None:
        z = mamba2([times(r, b.scale_in) for r in read], w["beside"], b.mixer)
        y = [times(y[t], b.attention_out) + times(z[t], b.scale_out) for t in range(len(xs))]

    def added(x: Vector, read: Vector, y: Vector, name: str, s: Any, opened: Any = None) -> Vector:
        y = y if opened is None else np.outer(opened, y)
        y = times(norm(y, w.get(f"{name}_post"), s.post), layer.scale)
        return norm((read if layer.residual == "norm" else x) + y, w.get(f"{name}_after"), s.after)

    out, before, late = [], memo.get("late"), []
    for t, x in enumerate(xs):
        h = added(x, read[t], y[t], "attn", layer.attention, pairs[t][1])
        if layer.laurel is not None:
            learned = rms(
                read[t] @ w["laurel"]["left"] @ w["laurel"]["right"],
                layer.laurel.norm.eps,
                w["laurel"]["norm"],
            )
            h = (h + read[t] + learned) / math.sqrt(2)
        if layer.cross is not None and not layer.merged:
            asks = norm(h, w.get("cross_pre"), layer.cross.pre)
            h = added(
                h, asks, cross_attention(asks, states or [], w["cross"], layer.cross), "cross", layer.cross
            )
        if not isinstance(layer.mlp, c.NoMlp):
            source, opened = mix_streams(x if layer.parallel else h, w.get("mlp_hyper"), layer.hyper)
            asks = norm(source, w.get("mlp_pre"), layer.mlp.pre)
            asks = read[t] if layer.parallel and layer.mlp.pre is None else asks
            h = added(h, asks, mlp(asks, w["mlp"], layer.mlp, late), "mlp", layer.mlp, opened)
        h = h + before[t] if before else h
        if layer.conv is not None:
            h = norm(h + near(xs, t, w["conv"], layer.conv), w["conv_after"], layer.conv.after)
        if alt is not None:
            moved = 1 + modes(h, w["altup"], alt) @ w["altup"]["correct"]
            h = streams[t] + np.outer(moved, h - streams[t][alt.active])
        if (e := layer.per_layer) is not None:
            v = w["per_layer"]
            asks = (h if alt is None else h[alt.active]) * v.get("scale", 1.0)
            update = (ACTIVATIONS[e.activation](asks @ v["gate"]) * own[t]) @ v["project"]
            update = norm(update, w.get("per_layer_post"), e.post)
            h = h + update if alt is None else np.array([h[0], *(stream + update for stream in h[1:])])
        out.append(h * w["scalar"] if layer.scalar else h)
    memo["late"] = late
    return out


def embedded(tokens: Any, types: Any, params: Weights, w: Weights, e: c.Embedding, s: c.Stack) -> Vectors:
    """What enters the first layer."""
    own = w is params.get("encoder") and "encoder_embedding" in params
    entry, out = params["encoder_embedding" if own else "embedding"], []

    def row(token: Any) -> Vector:
        x = entry["table"][token] * (1.0 if e.scale is None else e.scale)
        x = entry["apart"] if token == e.apart else x
        if (d := e.token_dropout) is None:
            return x
        kept = [other for other in tokens if other != d.mask]
        return x * (0.0 if token == d.mask else (1 - d.share) * len(tokens) / len(kept))

    for t, token in enumerate(tokens):
        x = row(token)
        if e.projection is not None and not e.projection.late:
            if e.projection.trigram:
                before = row(tokens[t - 1]) if t > 0 else 0 * x
                x = np.concatenate([row(tokens[t + 1]) if t + 1 < len(tokens) else 0 * x, x, before])
            x = linear(x, entry, "project", "project_bias")
        if types is not None:
            x = x + entry["token_types"][types[t]]
        if e.task_types is not None:
            x = x + entry["task_types"][0]
        x = norm(x, w.get("first_norm"), s.first_norm) if s.norm_before_positions else x
        if isinstance(p := s.positions, c.Learned):
            x = x + w["positions"][t + p.offset]
        elif isinstance(p, c.Sinusoidal):
            half = len(x) // 2
            angles = [(t + p.offset) * p.theta ** (-j / half) for j in range(half)]
            both = [[math.sin(a) for a in angles], [math.cos(a) for a in angles]]
            x = x + (np.array(both).T if p.interleaved else np.array(both)).reshape(-1)
        x = x if s.norm_before_positions else norm(x, w.get("first_norm"), s.first_norm)
        if e.projection is not None and e.projection.late:
            x = linear(x, entry, "project", "project_bias")
        out.append(x)
    return out


def run(
    xs: Vectors,
    w: Weights,
    s: c.Stack,
    causal: bool,
    states: Vectors | None = None,
    own: Any = None,
    tokens: Any = None,
) -> Vectors:
    """The layers of a stack and its last norm."""
    memo: dict[str, Any] = {"kv": [], "relative_bias": w.get("relative_bias"), "embedding": xs}
    memo["tokens"] = tokens

    def sized(x: Vector, like: Vector) -> Vector:
        return x * math.sqrt(np.mean(like**2)) / math.sqrt(max(np.mean(x**2), 1e-5))

    if s.altup is not None:
        xs = [np.array([x, *(sized(x @ one["enter"], x) for one in w["streams"])]) for x in xs]
    if s.hyper is not None:
        xs = [np.array([x] * s.hyper.streams) for x in xs]
    for i, one in enumerate(s.layers):
        mine = None if own is None else [vectors[i] for vectors in own]
        xs = through(xs, w["layers"][i], one, memo, causal, states, mine)
    if s.altup is not None:
        pairs = [list(zip(x[1:], w["streams"], strict=True)) for x in xs]
        xs = [
            (x[0] + sum(sized(one @ map_["leave"], x[0]) for one, map_ in pairs[t])) / len(x)
            for t, x in enumerate(xs)
        ]
    if s.hyper is not None:
        xs = [mix_streams(x, w["join"], s.hyper)[0] for x in xs]
    return [norm(x, w.get("norm"), s.final_norm) for x in xs]


def per_layer_vectors(tokens: Any, xs: Vectors, entry: Weights, e: c.Embedding, layers: int) -> Any:
    if e.per_layer is None:
        return None
    w, out = entry["per_layer"], []
    for token, x in zip(tokens, xs, strict=True):
        seen = (x @ w["project"] / math.sqrt(len(x))).reshape(layers, -1)
        if e.per_layer.rows is None:
            out.append([rms(one, e.per_layer.norm.eps, w["norm"]) for one in seen])
            continue
        row = w["table"][token if token < e.per_layer.rows else 0].reshape(layers, -1)
        out.append([
            (math.sqrt(row.shape[1]) * row[i] + rms(seen[i], e.per_layer.norm.eps, w["norm"])) / math.sqrt(2)
            for i in range(layers)
        ])  # fmt: skip
    return out


def dense(x: Vector, w: Weights, d: c.Dense | None, leaves: Weights | None = None) -> Vector:
    if d is None:
        return x
    x = linear(x, leaves or w["dense"], "weight", "bias")
    x = x if d.activation is None else ACTIVATIONS[d.activation](x)
    return norm(x, w.get("norm"), d.norm)


def logits(x: Vector, params: Weights, config: Any) -> Vector:
    """A decoder's logits, or log-probabilities of an adaptive softmax."""
    head, w = config.head, params.get("head", {})
    x = dense(x @ w["project"] if config.embedding.projection is not None else x, w, head.dense)
    if head.adaptive is not None:
        first = log_shares(linear(x, w, "frequent", "bias"))
        short = len(first) - len(w["tails"])
        rare = [first[short + i] + log_shares(x @ t["down"] @ t["up"]) for i, t in enumerate(w["tails"])]
        return np.concatenate([first[:short], *rare])
    y = (params["embedding"] if head.tied else w)["table"] @ x * (1.0 if head.scale is None else head.scale)
    y = y + w["bias"] if head.bias else y
    return y if head.softcap is None else head.softcap * np.tanh(y / head.softcap)


def decoded(config: Any, params: Weights, tokens: Any, text: Any = None) -> np.ndarray:
    """The logits [T, N] of a text, of a model that reads another text first where one is given."""
    stack, w = config.stacks["decoder"], params["decoder"]
    xs = embedded(tokens, None, params, w, config.embedding, stack)
    own = per_layer_vectors(tokens, xs, params["embedding"], config.embedding, len(stack.layers))
    states = None if text is None else encoded(config, params, text)
    return np.array([logits(x, params, config) for x in run(xs, w, stack, True, states, own, tokens)])


def encoded(config: Any, params: Weights, tokens: Any, types: Any = None) -> Vectors:
    """The vectors of an encoder, or of the decoder that reads it for a head."""
    stack, w = config.stacks["encoder"], params["encoder"]
    if config.embedding.token_types is not None and types is None:
        types = [0] * len(tokens)
    xs = embedded(tokens, types, params, w, config.text_embedding, stack)
    own = per_layer_vectors(tokens, xs, params["embedding"], config.embedding, len(stack.layers))
    states = run(xs, w, stack, stack.causal, None, own, tokens)
    if "reader" not in config.stacks:
        return states
    reader, start = config.decoder.stack, config.decoder.start
    shifted = [tokens[-1] if start is None else start, *tokens[:-1]]
    xs = embedded(shifted, None, params, params["reader"], config.embedding, reader)
    return run(xs, params["reader"], reader, reader.causal, states)


def pooled(xs: Vectors, pooling: str) -> Vector:
    if pooling in ("first", "last"):
        return xs[0] if pooling == "first" else xs[-1]
    return np.mean(xs, 0) if pooling == "mean" else np.max(xs, 0)


def predicted(config: Any, params: Weights, tokens: Any, types: Any = None) -> np.ndarray:
    """What an encoder's head makes of a text: of each token, or of the whole text."""
    head, w, xs = config.head, params.get("head", {}), encoded(config, params, tokens, types)
    match head:
        case c.MaskedLM():
            table = (params["embedding"] if head.tied else w)["table"]
            bias = w["bias"] if head.bias else 0.0
            further = w["further"] if head.further else np.zeros((0, len(table)))
            parts = [np.split(dense(x, w, head.dense), [table.shape[1]]) for x in xs]
            return np.array([table @ first + rest @ further + bias for first, rest in parts])
        case c.Classify(pooling=pooling):
            ends = [at for at, token in enumerate(tokens) if token == head.end]
            xs = xs[: ends[-1] + 1] if ends else xs
            if head.late:
                return linear(
                    pooled([dense(x, w, head.dense) for x in xs], pooling), w["out"], "weight", "bias"
                )
            return linear(dense(pooled(xs, pooling), w, head.dense), w["out"], "weight", "bias")
        case c.Pool(pooling=pooling):
            x = dense(pooled(xs, pooling), w, head.dense)
            for one, leaves in zip(head.projections, w.get("projections", []), strict=True):
                x = dense(x, {}, one, leaves)
            return x / max(math.sqrt(x @ x), 1e-12) if head.unit else x
    xs = [dense(x, w, head.dense) for x in xs]
    if isinstance(head, c.QuestionAnswering) and head.mlp is not None:
        xs = [
            norm(x + feed(x, w["mlp"], head.mlp.activation), w.get("mlp_after"), head.mlp.after) for x in xs
        ]
    return np.array([linear(x, w["out"], "weight", "bias") for x in xs])
