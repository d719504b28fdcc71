"""One layer: norm, attention, residual; norm, mlp, residual. Here unions of the Config are told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..config import Attention, Gated, Layer, LayerNorm, Mlp, Norm, Plain, RMSNorm, Window
from .attention import attention
from .mlp import gated_mlp, plain_mlp
from .norm import layer_norm, rms_norm

if TYPE_CHECKING:
    from numpy import ndarray as Array

__all__ = ["block", "normalize"]


def normalize(x: Array, tree: Any, *, norm: Norm | None) -> Array:
    """The norm that the Config names, or x itself where it names none."""
    match norm:
        case None:
            return x
        case RMSNorm(eps):
            return rms_norm(x, **tree, eps=eps)
        case LayerNorm(eps):
            return layer_norm(x, **tree, eps=eps)


def _attend(
    x: Array, cache: tuple[Array, Array], past: Array, tables: Any, tree: Any, config: Attention
) -> tuple[Array, Array, Array]:
    rope = config.position
    cos, sin = (None, None) if rope is None else tables[rope]
    return attention(
        x, *cache, past, **tree, cos=cos, sin=sin,
        norm_eps=1e-6 if config.qk_norm is None else config.qk_norm.eps,
        window=config.pattern.size if isinstance(config.pattern, Window) else None,
        scale=config.scale,
        softcap=config.softcap,
        interleaved=rope is not None and rope.interleaved,
    )  # fmt: skip


def _feed(x: Array, tree: Any, config: Mlp) -> Array:
    match config:
        case Gated():
            return gated_mlp(x, **tree, kind=config.activation)
        case Plain():
            return plain_mlp(x, **tree, kind=config.activation)


def block(
    x: Array,
    cache: tuple[Array, Array],
    past: Array,
    tables: Any,
    tree: Any,
    *,
    config: Layer,
) -> tuple[Array, tuple[Array, Array]]:
    """One layer over x [B, T, D]: gives the new x and the layer's new cache.

    Sequential: h = x + attention(norm(x)); y = h + mlp(norm(h)) (pre-norm, Xiong et al. 2020).
    Parallel: y = x + attention(norm(x)) + mlp(norm'(x)) (GPT-J). Each sublayer may also have a norm
    on its output before the sum (`post`: Gemma 2's sandwich) and one on the sum (`after`: the
    original post-norm). `tables` maps each Rope to its cosines and sines, [L, J] each.
    """
    a, m = config.attention, config.mlp
    pre = normalize(x, tree.get("attn_pre"), norm=a.pre)
    y, *new = _attend(pre, cache, past, tables, tree["attn"], a)
    y = normalize(y, tree.get("attn_post"), norm=a.post)
    h = normalize(x + y, tree.get("attn_after"), norm=a.after)
    z = _feed(normalize(x if config.parallel else h, tree.get("mlp_pre"), norm=m.pre), tree["mlp"], m)
    z = normalize(z, tree.get("mlp_post"), norm=m.post)
    return normalize(h + z, tree.get("mlp_after"), norm=m.after), (new[0], new[1])
