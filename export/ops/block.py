"""One layer: norm, attention, residual; norm, mlp, residual. Here unions of the Config are told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...refimpl.config import Gated, Layer, LayerNorm, Norm, Plain, RMSNorm, Window
from .attention import attention
from .mlp import gated_mlp, plain_mlp
from .norm import layer_norm, rms_norm

if TYPE_CHECKING:
    from torch import Tensor as Array

__all__ = ["block", "normalize"]


def normalize(x: Array, tree: Any, *, norm: Norm | None) -> Array:
    """The norm that the Config names, or x itself where it names none."""
    match norm:
        case RMSNorm():
            return rms_norm(x, **tree, eps=norm.eps)
        case LayerNorm():
            return layer_norm(x, **tree, eps=norm.eps)
        case None:
            return x


def block(
    x: Array,
    cache: tuple[Array, Array],
    past: Array,
    tables: Any,
    tree: Any,
    *,
    config: Layer,
) -> tuple[Array, tuple[Array, Array]]:
    """Two sublayers and their sums."""
    a, m, rope = config.attention, config.mlp, config.attention.position
    cos, sin = (None, None) if rope is None else tables[rope]
    attended, k_cache, v_cache = attention(
        normalize(x, tree.get("attn_pre"), norm=a.pre), *cache, past, **tree["attn"], cos=cos, sin=sin,
        norm_eps=a.qk_norm.eps if a.qk_norm is not None else 1e-6,
        window=a.pattern.size if isinstance(a.pattern, Window) else None,
        scale=a.scale,
        softcap=a.softcap,
        interleaved=rope.interleaved if rope is not None else False,
    )  # fmt: skip
    attended = normalize(attended, tree.get("attn_post"), norm=a.post)
    middle = normalize(x + attended, tree.get("attn_after"), norm=a.after)
    given = normalize(x if config.parallel else middle, tree.get("mlp_pre"), norm=m.pre)
    match m:
        case Gated():
            fed = gated_mlp(given, **tree["mlp"], kind=m.activation)
        case Plain():
            fed = plain_mlp(given, **tree["mlp"], kind=m.activation)
    fed = normalize(fed, tree.get("mlp_post"), norm=m.post)
    return normalize(middle + fed, tree.get("mlp_after"), norm=m.after), (k_cache, v_cache)
