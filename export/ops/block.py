"""One layer: norm, attention, residual; norm, mlp, residual. The unions of the Config are told apart here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict, cast

from ...refimpl.config import (
    Alibi,
    Attention,
    Gated,
    Layer,
    Mlp,
    MoE,
    Norm,
    Plain,
    RelativeBias,
    RMSNorm,
    Rope,
)
from .attention import AttentionWeights, attention
from .cache import KVCache
from .cross_attention import CrossAttentionWeights, CrossKeyWeights, EncoderKV, cross_attention
from .mlp import GatedMlpWeights, PlainMlpWeights, gated_mlp, plain_mlp
from .moe import MoEWeights, moe
from .norm import layer_norm, rms_norm
from .position import Rotary
from .self_attention import self_attention

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

__all__ = ["BlockWeights", "NormWeights", "Positions", "block", "encoder_block", "normalize"]


class NormWeights(TypedDict, total=False):
    """The leaves of a norm; one without a learned factor or shift lacks them."""

    weight: Float[Array, " D"]
    bias: Float[Array, " D"]


class CachedAttentionWeights(AttentionWeights):
    """The leaves of a decoder's attention: where it keeps 8 bits, the scales of keys and values too."""

    k_scale: NotRequired[Float[Array, "G K"]]
    v_scale: NotRequired[Float[Array, "G K"]]


class CrossWeights(CrossKeyWeights, CrossAttentionWeights):
    """The leaves of cross-attention."""


class BlockWeights(TypedDict):
    """The leaves of a layer: its sublayers, and for each the norms `pre`, `post` and `after`."""

    attn: CachedAttentionWeights
    mlp: PlainMlpWeights | GatedMlpWeights | MoEWeights
    cross: NotRequired[CrossWeights]
    attn_pre: NotRequired[NormWeights]
    attn_post: NotRequired[NormWeights]
    attn_after: NotRequired[NormWeights]
    cross_pre: NotRequired[NormWeights]
    cross_post: NotRequired[NormWeights]
    cross_after: NotRequired[NormWeights]
    mlp_pre: NotRequired[NormWeights]
    mlp_post: NotRequired[NormWeights]
    mlp_after: NotRequired[NormWeights]


class Positions(NamedTuple):
    """What layers need to know of positions: cosines and sines, and the numbers that are added to scores."""

    rotary: Mapping[Rope, Rotary]
    biases: Mapping[tuple[Alibi | RelativeBias, int], Array]


def normalize(x: Array, weights: NormWeights | None, *, norm: Norm | None) -> Array:
    """The norm that the Config names, or x itself where it names none."""
    if norm is None:
        return x
    leaves = {} if weights is None else weights
    if isinstance(norm, RMSNorm):
        return rms_norm(x, leaves.get("weight"), eps=norm.eps)
    return layer_norm(x, leaves.get("weight"), leaves.get("bias"), eps=norm.eps)


def _rotary_and_bias(a: Attention, positions: Positions) -> tuple[Rotary | None, Array | None]:
    """What a sublayer takes of positions, whatever its kind."""
    if a.position is None:
        return None, None
    if isinstance(a.position, Rope):
        return positions.rotary[a.position], None
    return None, positions.biases[a.position, a.heads]


def _sum(
    x: Array, given: Array, y: Array, post: NormWeights | None, after: NormWeights | None,
    *, layer: Layer, sublayer: Attention | Mlp,
) -> Array:  # fmt: skip
    """What a sublayer of x gave for its normed input, added to one of the two."""
    y = normalize(y, post, norm=sublayer.post)
    if layer.scale is not None:
        y = layer.scale * y
    added = given if layer.residual == "norm" else x
    return normalize(added + y, after, norm=sublayer.after)


def _mlp(x: Array, beside: Array, middle: Array, weights: BlockWeights, *, layer: Layer) -> Array:
    """The last sublayer and its sum; `beside` is x as the attention took it."""
    m, leaves = layer.mlp, weights["mlp"]
    source = middle
    if layer.parallel:
        source = beside if m.pre is None else x
    given = normalize(source, weights.get("mlp_pre"), norm=m.pre)
    match m:
        case Gated():
            y = gated_mlp(given, cast(GatedMlpWeights, leaves), kind=m.activation)
        case Plain():
            y = plain_mlp(given, cast(PlainMlpWeights, leaves), kind=m.activation)
        case MoE():
            y = moe(given, cast(MoEWeights, leaves), settings=m)
    post, after = weights.get("mlp_post"), weights.get("mlp_after")
    return _sum(middle, given, y, post, after, layer=layer, sublayer=m)


def _cross(x: Array, encoder_kv: EncoderKV, weights: BlockWeights, *, layer: Layer) -> Array:
    """The sublayer in the middle and its sum."""
    c, leaves = layer.cross, weights.get("cross")
    assert c is not None
    assert leaves is not None
    given = normalize(x, weights.get("cross_pre"), norm=c.pre)
    y = cross_attention(given, encoder_kv, leaves, settings=c)
    post, after = weights.get("cross_post"), weights.get("cross_after")
    return _sum(x, given, y, post, after, layer=layer, sublayer=c)


def block(
    x: Array,
    cache: KVCache,
    past: Array,
    positions: Positions,
    weights: BlockWeights,
    encoder_kv: EncoderKV | None = None,
    at: Array | None = None,
    *,
    config: Layer,
) -> tuple[Array, KVCache]:
    """Two sublayers or three, and their sums."""
    a, leaves = config.attention, weights["attn"]
    given = normalize(x, weights.get("attn_pre"), norm=a.pre)
    rotary, bias = _rotary_and_bias(a, positions)
    cache = cache._replace(k_scale=leaves.get("k_scale"), v_scale=leaves.get("v_scale"))
    y, cache = attention(given, cache, past, leaves, rotary, bias, settings=a)
    post, after = weights.get("attn_post"), weights.get("attn_after")
    middle = _sum(x, given, y, post, after, layer=config, sublayer=a)
    if at is not None:
        index = at.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        x, given, middle = x.gather(1, index), given.gather(1, index), middle.gather(1, index)
    if encoder_kv is not None:
        middle = _cross(middle, encoder_kv, weights, layer=config)
    return _mlp(x, given, middle, weights, layer=config), cache


def encoder_block(
    x: Array,
    lengths: Array,
    positions: Positions,
    weights: BlockWeights,
    encoder_kv: EncoderKV | None = None,
    *,
    config: Layer,
    causal: bool,
) -> Array:
    """Two sublayers or three, and their sums."""
    a = config.attention
    given = normalize(x, weights.get("attn_pre"), norm=a.pre)
    rotary, bias = _rotary_and_bias(a, positions)
    y = self_attention(given, lengths, weights["attn"], rotary, bias, settings=a, causal=causal)
    post, after = weights.get("attn_post"), weights.get("attn_after")
    middle = _sum(x, given, y, post, after, layer=config, sublayer=a)
    if encoder_kv is not None:
        middle = _cross(middle, encoder_kv, weights, layer=config)
    return _mlp(x, given, middle, weights, layer=config)
