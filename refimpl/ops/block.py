"""One layer: norm, attention, residual; norm, mlp, residual. Here unions of the Config are told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import (
    Alibi,
    Attention,
    FullAttention,
    Gated,
    Layer,
    LayerNorm,
    Mlp,
    MoE,
    Norm,
    Plain,
    RelativeBias,
    RMSNorm,
    Rope,
    Window,
)
from .attention import attention, heads
from .cross_attention import cross_attention
from .mlp import gated_mlp, plain_mlp
from .moe import moe
from .norm import layer_norm, rms_norm
from .self_attention import self_attention

if TYPE_CHECKING:
    from numpy import ndarray as Array

Sublayer = Callable[["Array"], "Array"]

__all__ = ["block", "encoder_block", "normalize"]


def normalize(x: Array, tree: Any, *, norm: Norm | None) -> Array:
    """The norm that the Config names, or x itself where it names none."""
    match norm:
        case None:
            return x
        case RMSNorm(eps):
            return rms_norm(x, **tree, eps=eps)
        case LayerNorm(eps):
            return layer_norm(x, **(tree or {}), eps=eps)


def _settings(config: Attention, tables: Any) -> dict[str, Any]:
    """What the Config says of a sublayer, as arguments; `tables` holds what its positions need."""
    found: dict[str, Any] = {"scale": config.scale, "softcap": config.softcap}
    match config.position:
        case None:
            pass
        case Rope() as rope:
            cos, sin = tables[rope]
            found |= {"cos": cos, "sin": sin, "interleaved": rope.interleaved}
        case Alibi() | RelativeBias():
            found["bias"] = tables[config.position, config.heads]
    match config.mask:
        case FullAttention():
            pass
        case Window(size):
            found["window"] = size
    if config.clip is not None:
        found["clip"] = config.clip
    return found if config.qk_norm is None else found | _head_norm(config.qk_norm.norm, "norm_")


def _head_norm(norm: Norm, prefix: str = "") -> dict[str, Any]:
    match norm:
        case RMSNorm(eps):
            return {f"{prefix}kind": "rms", f"{prefix}eps": eps}
        case LayerNorm(eps):
            return {f"{prefix}kind": "layer", f"{prefix}eps": eps}


def projected(x: Array, tree: Any, *, config: Attention) -> list[Array]:
    """Queries, keys and values of a sublayer's normed input, as they are before the rotation."""
    own = {"size": config.head_size, "clip": config.clip}
    norm = {} if config.qk_norm is None else _head_norm(config.qk_norm.norm)
    leaves = [(tree[f"w{n}"], tree.get(f"b{n}"), tree.get(f"{n}_norm")) for n in "qkv"]
    return [heads(x, *leaf, **own, **norm) for leaf in leaves]


def _feed(x: Array, tree: Any, config: Mlp) -> Array:
    match config:
        case Gated():
            return gated_mlp(x, **tree, kind=config.activation)
        case Plain():
            return plain_mlp(x, **tree, kind=config.activation)
        case MoE(top=top, score=score, renormalize=renormalize, scale=scale):
            routing = {"top": top, "score": score, "renormalize": renormalize, "scale": scale}
            return moe(x, **tree, kind=config.activation, **routing)


def _add(
    x: Array, given: Array, tree: Any, part: str, layer: Layer, config: Attention | Mlp, f: Sublayer
) -> Array:
    """after(x + scale · post(f(pre(given)))): a sublayer between its norms, and the residual sum.

    With the layer's `residual` at the norm, x is pre(given).
    """
    given = normalize(given, tree.get(f"{part}_pre"), norm=config.pre)
    y = normalize(f(given), tree.get(f"{part}_post"), norm=config.post)
    y = y if layer.scale is None else y * layer.scale
    total = y + (given if layer.residual == "norm" else x)
    return normalize(total, tree.get(f"{part}_after"), norm=config.after)


def _beside(x: Array, tree: Any, layer: Layer) -> Array:
    """What a parallel mlp is given, before a norm of its own: x, or without such a norm the attention's."""
    return x if layer.mlp.pre else normalize(x, tree.get("attn_pre"), norm=layer.attention.pre)


def block(
    x: Array,
    cache: tuple[Array, Array],
    past: Array,
    tables: Any,
    tree: Any,
    memory: tuple[Array, Array, Array] | None = None,
    at: Array | None = None,
    *,
    config: Layer,
) -> tuple[Array, tuple[Array, Array]]:
    """One layer of a decoder over x [B, T, D]: gives the new x and the layer's new cache.

    Sequential: h = x + attention(norm(x)); y = h + mlp(norm(h)) (pre-norm, Xiong et al. 2020).
    Parallel: y = x + attention(norm(x)) + mlp(norm'(x)) (GPT-NeoX), or without a norm' of its own
    mlp(norm(x)) (GPT-J, Wang & Komatsuzaki 2021). Each sublayer may also have a norm
    on its output before the sum (`post`: Gemma 2's sandwich) and one on the sum (`after`: the
    original post-norm). Cross-attention, where the layer has it, is a sublayer between the two, over
    `memory`: keys and values [B, G, S, K] of the encoder's output and its lengths [B].
    `tables` maps each Rope to its cosines and sines, [L, J] each, and each other position with its
    number of heads to its bias [B, H, T, L]. With `at` [B, P] the new x is [B, P, D], at these
    positions of the call: what follows the attention looks at no other token.
    """
    new: list[Array] = []

    def attend(given: Array) -> Array:
        y, *kept = attention(given, *cache, past, **tree["attn"], **_settings(config.attention, tables))
        new.extend(kept)
        return y

    h = _add(x, x, tree, "attn", config, config.attention, attend)
    if at is not None:
        x, h = (np.take_along_axis(a, at[:, :, None], axis=1) for a in (x, h))
    h = _read(h, memory, tables, tree, config)
    feed = lambda given: _feed(given, tree["mlp"], config.mlp)  # noqa: E731
    given = _beside(x, tree, config) if config.parallel else h
    y = _add(h, given, tree, "mlp", config, config.mlp, feed)
    return y, (new[0], new[1])


def _read(
    h: Array, memory: tuple[Array, Array, Array] | None, tables: Any, tree: Any, config: Layer
) -> Array:
    """The sublayer between the two, where there is one."""
    if config.cross is None or memory is None:
        return h
    settings = _settings(config.cross, tables)
    cross = {name: leaf for name, leaf in tree["cross"].items() if name in ("wq", "bq", "wo", "bo")}
    read = lambda given: cross_attention(given, *memory, **cross, **settings)  # noqa: E731
    return _add(h, h, tree, "cross", config, config.cross, read)


def encoder_block(
    x: Array,
    lengths: Array,
    tables: Any,
    tree: Any,
    memory: tuple[Array, Array, Array] | None = None,
    *,
    config: Layer,
    causal: bool,
) -> Array:
    """One layer over whole texts x [B, T, D], of whose rows the first `lengths` tokens are real.

    As in `block`, but unless it is `causal` every token sees the whole text; a bias is [B, H, T, T], or
    [1, H, T, T] for all.
    """
    a, m = config.attention, config.mlp
    taken = {**tree["attn"], **_settings(a, tables)}
    attend = lambda y: self_attention(y, lengths, **taken, head_size=a.head_size, causal=causal)  # noqa: E731
    h = _read(_add(x, x, tree, "attn", config, a, attend), memory, tables, tree, config)
    given = _beside(x, tree, config) if config.parallel else h
    return _add(h, given, tree, "mlp", config, m, lambda y: _feed(y, tree["mlp"], m))
