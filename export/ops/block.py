"""One layer: norm, attention, residual; norm, mlp, residual. Here unions of the Config are told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...refimpl.config import (
    Attention,
    Gated,
    Layer,
    LayerNorm,
    Mlp,
    MoE,
    Norm,
    Plain,
    RMSNorm,
    Rope,
    Window,
)
from .attention import attention
from .cross_attention import cross_attention
from .mlp import gated_mlp, plain_mlp
from .moe import moe
from .norm import layer_norm, rms_norm
from .self_attention import self_attention

if TYPE_CHECKING:
    from torch import Tensor as Array

__all__ = ["block", "encoder_block", "normalize"]


def normalize(x: Array, tree: Any, *, norm: Norm | None) -> Array:
    """The norm that the Config names, or x itself where it names none."""
    match norm:
        case RMSNorm():
            return rms_norm(x, **tree, eps=norm.eps)
        case LayerNorm():
            return layer_norm(x, **tree, eps=norm.eps)
        case None:
            return x


def _placed(a: Attention, tables: Any) -> dict[str, Any]:
    """The arguments that tell of positions, for all kinds of attention."""
    if a.position is None:
        return {}
    if not isinstance(a.position, Rope):
        return {"bias": tables[a.position, a.heads]}
    cos, sin = tables[a.position]
    return {"cos": cos, "sin": sin, "interleaved": a.position.interleaved}


def _options(a: Attention) -> dict[str, Any]:
    return {
        "norm_eps": a.qk_norm.norm.eps if a.qk_norm is not None else 1e-6,
        "window": a.pattern.size if isinstance(a.pattern, Window) else None,
        "scale": a.scale,
        "softcap": a.softcap,
    }


def _fed(x: Array, middle: Array, tree: Any, m: Mlp, parallel: bool) -> Array:
    """The last sublayer and its sum."""
    given = normalize(x if parallel else middle, tree.get("mlp_pre"), norm=m.pre)
    match m:
        case Gated():
            fed = gated_mlp(given, **tree["mlp"], kind=m.activation)
        case Plain():
            fed = plain_mlp(given, **tree["mlp"], kind=m.activation)
        case MoE():
            fed = moe(
                given,
                **tree["mlp"],
                kind=m.activation,
                top=m.top,
                score=m.score,
                renormalize=m.renormalize,
                scale=m.scale,
            )
    fed = normalize(fed, tree.get("mlp_post"), norm=m.post)
    return normalize(middle + fed, tree.get("mlp_after"), norm=m.after)


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
    """Two sublayers or three, and their sums."""
    a, c = config.attention, config.cross
    attended, k_cache, v_cache = attention(
        normalize(x, tree.get("attn_pre"), norm=a.pre),
        *cache,
        past,
        **tree["attn"],
        **_placed(a, tables),
        **_options(a),
    )
    attended = normalize(attended, tree.get("attn_post"), norm=a.post)
    middle = normalize(x + attended, tree.get("attn_after"), norm=a.after)
    if at is not None:
        index = at.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        x, middle = x.gather(1, index), middle.gather(1, index)
    if c is not None and memory is not None:
        leaves = {name: leaf for name, leaf in tree["cross"].items() if name[-1] in "qo"}
        given = normalize(middle, tree.get("cross_pre"), norm=c.pre)
        read = cross_attention(given, *memory, **leaves, scale=c.scale, softcap=c.softcap)
        read = normalize(read, tree.get("cross_post"), norm=c.post)
        middle = normalize(middle + read, tree.get("cross_after"), norm=c.after)
    return _fed(x, middle, tree, config.mlp, config.parallel), (k_cache, v_cache)


def encoder_block(x: Array, lengths: Array, tables: Any, tree: Any, *, config: Layer) -> Array:
    """Two sublayers and their sums."""
    a = config.attention
    given = normalize(x, tree.get("attn_pre"), norm=a.pre)
    attended = self_attention(
        given, lengths, **tree["attn"], head_size=a.head_size, **_placed(a, tables), **_options(a)
    )
    attended = normalize(attended, tree.get("attn_post"), norm=a.post)
    middle = normalize(x + attended, tree.get("attn_after"), norm=a.after)
    return _fed(x, middle, tree, config.mlp, config.parallel)
