"""One layer: norm, attention, residual; norm, mlp, residual. Here unions of the Config are told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...refimpl.config import Attention, Gated, Layer, LayerNorm, MoE, Norm, Plain, RMSNorm, Rope, Window
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
            return layer_norm(x, **({} if tree is None else tree), eps=norm.eps)
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
        "norm_kind": "layer" if a.qk_norm is not None and isinstance(a.qk_norm.norm, LayerNorm) else "rms",
        "clip": a.clip,
        "window": a.mask.size if isinstance(a.mask, Window) else None,
        "scale": a.scale,
        "softcap": a.softcap,
    }


def _sum(x: Array, given: Array, y: Array, tree: Any, part: str, layer: Layer) -> Array:
    """What a sublayer of x gave for its normed input, added to one of the two."""
    part_of = {"attn": layer.attention, "cross": layer.cross, "mlp": layer.mlp}[part]
    assert part_of is not None
    y = normalize(y, tree.get(f"{part}_post"), norm=part_of.post)
    if layer.scale is not None:
        y = layer.scale * y
    added = given if layer.residual == "norm" else x
    return normalize(added + y, tree.get(f"{part}_after"), norm=part_of.after)


def _fed(x: Array, beside: Array, middle: Array, tree: Any, layer: Layer) -> Array:
    """The last sublayer and its sum; `beside` is x as the attention took it."""
    m = layer.mlp
    source = (beside if m.pre is None else x) if layer.parallel else middle
    given = normalize(source, tree.get("mlp_pre"), norm=m.pre)
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
    return _sum(middle, given, fed, tree, "mlp", layer)


def _crossed(x: Array, memory: tuple[Array, Array, Array], tree: Any, layer: Layer) -> Array:
    """The sublayer in the middle and its sum."""
    c = layer.cross
    assert c is not None
    leaves = {name: leaf for name, leaf in tree["cross"].items() if name[-1] in "qo"}
    asking = normalize(x, tree.get("cross_pre"), norm=c.pre)
    read = cross_attention(asking, *memory, **leaves, scale=c.scale, softcap=c.softcap)
    return _sum(x, asking, read, tree, "cross", layer)


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
    a = config.attention
    given = normalize(x, tree.get("attn_pre"), norm=a.pre)
    attended, k_cache, v_cache = attention(
        given,
        *cache,
        past,
        **tree["attn"],
        **_placed(a, tables),
        **_options(a),
    )
    middle = _sum(x, given, attended, tree, "attn", config)
    if at is not None:
        index = at.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        x, given, middle = x.gather(1, index), given.gather(1, index), middle.gather(1, index)
    if memory is not None:
        middle = _crossed(middle, memory, tree, config)
    return _fed(x, given, middle, tree, config), (k_cache, v_cache)


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
    """Two sublayers or three, and their sums."""
    a = config.attention
    given = normalize(x, tree.get("attn_pre"), norm=a.pre)
    attended = self_attention(
        given,
        lengths,
        **tree["attn"],
        head_size=a.head_size,
        causal=causal,
        **_placed(a, tables),
        **_options(a),
    )
    middle = _sum(x, given, attended, tree, "attn", config)
    if memory is not None:
        middle = _crossed(middle, memory, tree, config)
    return _fed(x, given, middle, tree, config)
