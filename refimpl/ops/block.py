"""One layer: norm, attention, residual; norm, mlp, residual. The Config's unions are resolved here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict, cast

import numpy as np

from ..config import (
    LSTM,
    Alibi,
    Attention,
    DisentangledAttention,
    Gated,
    GatedDelta,
    LatentAttention,
    Layer,
    LayerNorm,
    LinearAttention,
    LongformerAttention,
    LongT5Attention,
    Mamba,
    Mamba2,
    Mlp,
    MoE,
    NoMlp,
    Norm,
    Plain,
    Position,
    RelativeBias,
    RMSNorm,
    Rope,
    ShortConv,
    TokenMixer,
    XLNetAttention,
)
from .activation import activation
from .altup import AltUpWeights, altup_correct, altup_predict
from .attention import AttentionWeights, attention
from .bias import relative_bias
from .cache import KVCache
from .cross_attention import CrossAttentionWeights, CrossKeyWeights, EncoderKV, cross_attention
from .disentangled import DisentangledWeights, DistanceTable, disentangled_attention
from .dispatch import op
from .gated_delta import GatedDeltaWeights, gated_delta
from .latent_attention import (
    LatentAttentionWeights,
    LatentCache,
    latent_attention,
    latent_self_attention,
)
from .laurel import LaurelWeights, laurel
from .linear_attention import LinearAttentionWeights, LinearState, linear_attention
from .longformer import LongformerWeights, longformer_attention
from .longt5 import DistanceBiases, LongT5Weights, longt5_attention
from .lstm import LstmLayerWeights, LstmState, lstm_layer
from .mamba import ChannelState, MambaWeights, mamba
from .mamba2 import HybridCache, Mamba2Weights, mamba2
from .mlp import GatedMlpWeights, PlainMlpWeights, gated_mlp, plain_mlp
from .moe import MoEWeights, moe
from .neighbour_conv import NeighbourConvWeights, neighbour_conv
from .norm import layer_norm, rms_norm
from .per_layer import PerLayerWeights, per_layer_update
from .position import Rotary
from .self_attention import self_attention
from .shared_attention import SharedAttentionWeights, SharedKV, shared_attention
from .short_conv import ConvState, MatrixState, ShortConvWeights, short_conv
from .xlnet import XLNetWeights, xlnet_attention

if TYPE_CHECKING:
    from typing import Any as Array

    from jaxtyping import Float

Sublayer = Callable[["Array"], "Array"]
# What a layer keeps of earlier tokens.
MixerCache = (
    KVCache
    | LinearState
    | LstmState
    | ConvState
    | MatrixState
    | ChannelState
    | LatentCache
    | HybridCache
    | SharedKV
)

__all__ = [
    "BlockWeights", "LayerInputs", "NormWeights", "Positions", "block", "encoder_block", "normalize",
]  # fmt: skip


class NormWeights(TypedDict, total=False):
    """The leaves of a norm: a learned factor and a learned shift, where it has them."""

    weight: Float[Array, " D"]
    bias: Float[Array, " D"]


class CachedAttentionWeights(AttentionWeights):
    """The leaves of an attention in a layer: its relative biases, if they are its own (`RelativeBias`).

    In a decoder also the scales of keys and values, if the cache has 8 bits.
    """

    relative_bias: NotRequired[Float[Array, "W H"]]
    k_scale: NotRequired[Float[Array, "G K"]]
    v_scale: NotRequired[Float[Array, "G K"]]


class CrossWeights(CrossKeyWeights, CrossAttentionWeights):
    """The leaves of cross-attention."""


MixerWeights = (
    CachedAttentionWeights
    | SharedAttentionWeights
    | LinearAttentionWeights
    | LstmLayerWeights
    | ShortConvWeights
    | GatedDeltaWeights
    | MambaWeights
    | Mamba2Weights
    | LatentAttentionWeights
    | DisentangledWeights
    | LongformerWeights
    | LongT5Weights
    | XLNetWeights
)


class BlockWeights(TypedDict):
    """The leaves of a layer: its sublayers, for each the norms `pre`, `post` and `after`, its convolution,
    the state space beside its attention, the maps by which it reads its own vectors of tokens, its learned
    residual, and the maps of its streams."""

    attn: MixerWeights
    mlp: NotRequired[PlainMlpWeights | GatedMlpWeights | MoEWeights]
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
    conv: NotRequired[NeighbourConvWeights]
    conv_after: NotRequired[NormWeights]
    beside: NotRequired[Mamba2Weights]
    scalar: NotRequired[Float[Array, " 1"]]
    per_layer: NotRequired[PerLayerWeights]
    per_layer_post: NotRequired[NormWeights]
    laurel: NotRequired[LaurelWeights]
    altup: NotRequired[AltUpWeights]


class Positions(NamedTuple):
    """What layers need to know of positions.

    rotary: cosines and sines for each `Rope`.
    biases: added to scores [B, H, T, S], for each other position and number of heads; buckets [B, T, S] where
        each layer has its own table of biases.
    distances: the table that disentangled attention reads.
    question: where the question of each row ends [B], in a stack whose question is global.
    distance_biases: those of LongT5's attention.
    token_types: the segments of tokens [B, T], where XLNet's attention has them.
    """

    rotary: Mapping[Rope, Rotary]
    biases: Mapping[tuple[Alibi | RelativeBias, int], Array]
    distances: DistanceTable | None = None
    question: Array | None = None
    distance_biases: DistanceBiases | None = None
    token_types: Array | None = None

    def angles(self, position: Position | None) -> Rotary | None:
        """The cosines and sines of rotary positions; None for other ones, or without."""
        return self.rotary[position] if isinstance(position, Rope) else None


class LayerInputs(NamedTuple):
    """What a decoder's layer may read beside the vectors of the layer before it.

    Keys and values of an encoder's text, and vectors [B, T, F] of its own for each token (`ops.per_layer`).
    Which places of the cache [B, T, L] the indexer of a layer before chose for each token (`ops.indexer`).
    """

    encoder_kv: EncoderKV | None = None
    per_layer: Array | None = None
    chosen: Array | None = None


NO_INPUTS = LayerInputs()


@op
def normalize(x: Array, weights: NormWeights | None, *, norm: Norm | None) -> Array:
    """x normalized by the Config's norm, or x itself without one."""
    leaves = {} if weights is None else weights
    match norm:
        case None:
            return x
        case RMSNorm(eps):
            return rms_norm(x, leaves.get("weight"), eps=eps)
        case LayerNorm(eps):
            return layer_norm(x, leaves.get("weight"), leaves.get("bias"), eps=eps)


def rotary_and_bias(
    a: Attention, positions: Positions, weights: CachedAttentionWeights
) -> tuple[Rotary | None, Array | None]:
    """The rotation of a sublayer's queries and keys, and the bias of its scores, by its kind of position."""
    match a.position:
        case None:
            return None, None
        case Rope() as rope:
            return positions.rotary[rope], None
        case RelativeBias(shared=False) as position:
            assert "relative_bias" in weights
            return None, relative_bias(positions.biases[position, a.heads], weights["relative_bias"])
        case Alibi() | RelativeBias() as position:
            return None, positions.biases[position, a.heads]


def _times(x: Array, scale: float | None) -> Array:
    return x if scale is None else x * scale


def _feed(
    x: Array, weights: PlainMlpWeights | GatedMlpWeights | MoEWeights, config: Gated | Plain | MoE
) -> Array:
    match config:
        case Gated():
            leaves, scale = cast(GatedMlpWeights, weights), config.gate_scale
            more: dict[str, Any] = {"gate_scale": scale, "sparsity": config.sparsity}
            more |= {} if config.down_norm is None else {"norm_eps": config.down_norm.eps}
            y = gated_mlp(x, leaves, kind=config.activation, **more)
            return _times(y, config.scale)
        case Plain():
            return plain_mlp(x, cast(PlainMlpWeights, weights), kind=config.activation)
        case MoE():
            return moe(x, cast(MoEWeights, weights), settings=config)


class _Norms(NamedTuple):
    """The leaves of a sublayer's norms."""

    pre: NormWeights | None
    post: NormWeights | None
    after: NormWeights | None


def _add(
    x: Array, inputs: Array, norms: _Norms, layer: Layer, config: TokenMixer | Mlp, sublayer: Sublayer
) -> Array:
    """after(x + scale · post(sublayer(pre(inputs)))): a sublayer between its norms, and the residual sum.

    With the layer's `residual` at the norm, x is pre(inputs).
    """
    inputs = normalize(inputs, norms.pre, norm=config.pre)
    y = _times(normalize(sublayer(inputs), norms.post, norm=config.post), layer.scale)
    total = y + (inputs if layer.residual == "norm" else x)
    return normalize(total, norms.after, norm=config.after)


def _attend(x: Array, weights: BlockWeights, layer: Layer, sublayer: Sublayer) -> Array:
    norms = _Norms(weights.get("attn_pre"), weights.get("attn_post"), weights.get("attn_after"))
    return _add(x, x, norms, layer, layer.attention, sublayer)


def _cross(x: Array, encoder_kv: EncoderKV | None, weights: BlockWeights, layer: Layer) -> Array:
    """x after the sublayer that reads an encoder, or x itself without one."""
    cross, leaves = layer.cross, weights.get("cross")
    if cross is None or leaves is None or encoder_kv is None:
        return x
    norms = _Norms(weights.get("cross_pre"), weights.get("cross_post"), weights.get("cross_after"))
    return _add(
        x, x, norms, layer, cross, lambda inputs: cross_attention(inputs, encoder_kv, leaves, settings=cross)
    )


def _mlp(x: Array, h: Array, weights: BlockWeights, layer: Layer) -> Array:
    """The mlp over h; a parallel one over x, normalized by the attention's norm unless it has its own.

    Without an mlp this is h.
    """
    mlp, leaves = layer.mlp, weights.get("mlp")
    if isinstance(mlp, NoMlp) or leaves is None:
        return h
    norms = _Norms(weights.get("mlp_pre"), weights.get("mlp_post"), weights.get("mlp_after"))
    inputs = h
    if layer.parallel:
        inputs = x if mlp.pre else normalize(x, weights.get("attn_pre"), norm=layer.attention.pre)
    return _add(h, inputs, norms, layer, mlp, lambda y: _feed(y, leaves, mlp))


def _mix(
    x: Array, cache: MixerCache, past: Array, positions: Positions, weights: BlockWeights, mixer: TokenMixer
) -> tuple[Array, MixerCache]:
    """The sublayer that moves information from token to token, and its new cache."""
    match mixer:
        case LinearAttention():
            assert isinstance(cache, LinearState)
            leaves = cast(LinearAttentionWeights, weights["attn"])
            return linear_attention(x, cache, past, leaves, settings=mixer)
        case LSTM():
            assert isinstance(cache, LstmState)
            return lstm_layer(x, cache, past, cast(LstmLayerWeights, weights["attn"]))
        case ShortConv():
            assert isinstance(cache, ConvState)
            return short_conv(x, cache, past, cast(ShortConvWeights, weights["attn"]))
        case GatedDelta():
            assert isinstance(cache, MatrixState)
            return gated_delta(x, cache, past, cast(GatedDeltaWeights, weights["attn"]), settings=mixer)
        case Mamba():
            assert isinstance(cache, ChannelState)
            return mamba(x, cache, past, cast(MambaWeights, weights["attn"]), settings=mixer)
        case Mamba2():
            assert isinstance(cache, MatrixState)
            return mamba2(x, cache, past, cast(Mamba2Weights, weights["attn"]), settings=mixer)
        case DisentangledAttention() | LongformerAttention() | LongT5Attention() | XLNetAttention():
            raise AssertionError("a Config's check keeps this attention for encoders")
        case LatentAttention():
            raise AssertionError("`block` calls latent attention itself, which gives back a choice too")
        case Attention():
            assert isinstance(cache, KVCache)
            if mixer.kv_layer is not None:
                queries = cast(SharedAttentionWeights, weights["attn"])
                rotary = positions.angles(mixer.position)
                return shared_attention(x, cache, past, queries, rotary, settings=mixer), cache
            leaves = cast(CachedAttentionWeights, weights["attn"])
            rotary, bias = rotary_and_bias(mixer, positions, leaves)
            cache = cache._replace(k_scale=leaves.get("k_scale"), v_scale=leaves.get("v_scale"))
            return attention(x, cache, past, leaves, rotary, bias, settings=mixer)


def _mix_both(
    x: Array, cache: HybridCache, past: Array, positions: Positions, weights: BlockWeights, layer: Layer
) -> tuple[Array, HybridCache]:
    """The sum of attention and of the state space beside it, each between its multipliers, and both caches.

    y = attention_out · attention(attention_in · x) + scale_out · mamba2(scale_in · x)
    """
    both = layer.beside
    assert both is not None
    assert "beside" in weights
    read = _times(x, both.attention_in)
    y, kv = _mix(read, cache.attention, past, positions, weights, layer.attention)
    z, states = mamba2(_times(x, both.scale_in), cache.states, past, weights["beside"], settings=both.mixer)
    assert isinstance(kv, KVCache)
    return _times(y, both.attention_out) + _times(z, both.scale_out), HybridCache(*kv[:2], *states)


def _with_laurel(x: Array, h: Array, weights: BlockWeights, layer: Layer) -> Array:
    """The sum h of a mixer and its residual, averaged with the learned residual of what the mixer reads."""
    if layer.laurel is None:
        return h
    assert "laurel" in weights
    read = normalize(x, weights.get("attn_pre"), norm=layer.attention.pre)
    return laurel(read, h, weights["laurel"], eps=layer.laurel.norm.eps)


def _own_update(y: Array, vectors: Array | None, weights: BlockWeights, layer: Layer) -> Array | None:
    """What a layer makes of its own vectors of the tokens, if it has any."""
    own = layer.per_layer
    if own is None:
        return None
    assert vectors is not None
    assert "per_layer" in weights
    update = per_layer_update(y, vectors, weights["per_layer"], kind=own.activation)
    return normalize(update, weights.get("per_layer_post"), norm=own.post)


def _corrected(
    predictions: Array, y: Array, vectors: Array | None, weights: BlockWeights, layer: Layer
) -> Array:
    """All streams after a layer, of their predictions and of what came out of the active one.

    What the layer makes of its own vectors is added to all but the first.
    """
    assert layer.altup is not None
    assert "altup" in weights
    streams = altup_correct(predictions, y, weights["altup"], settings=layer.altup)
    update = _own_update(streams[:, :, layer.altup.active], vectors, weights, layer)
    if update is not None:
        streams[:, :, 1:] += update[:, :, None]
    return streams


def _scaled(y: Array, weights: BlockWeights) -> Array:
    """A layer's output times the number that it learned, if it has one."""
    return y * weights["scalar"] if "scalar" in weights else y


@op
def block(
    x: Array,
    cache: MixerCache,
    past: Array,
    positions: Positions,
    weights: BlockWeights,
    inputs: LayerInputs = NO_INPUTS,
    at: Array | None = None,
    *,
    config: Layer,
) -> tuple[Array, MixerCache, Array | None]:
    """One layer of a decoder over x [B, T, D]: gives the new x, the layer's new cache, and what the nearest
    indexer up to it chose, for the `inputs` of the next.

    Sequential: h = x + attention(norm(x)); y = h + mlp(norm(h)) (pre-norm, Xiong et al. 2020).
    Parallel: y = x + attention(norm(x)) + mlp(norm'(x)) (GPT-NeoX), or without a norm' of its own
    mlp(norm(x)) (GPT-J, Wang & Komatsuzaki 2021). Each sublayer may also have a norm on its output before
    the sum (`post`: Gemma 2's sandwich) and one on the sum (`after`: the original post-norm). A layer that
    reads an encoder has cross-attention over `encoder_kv` of its `inputs` between the two. A state space may
    stand beside the attention: both read norm(x), and the sublayer's output is their sum (Falcon-H1, Zuo et
    al. 2025, §2). A layer that gets vectors e of its own adds post(`per_layer_update`(y, e)) to y (Gemma 3n).
    With `at` [B, P] the new x is [B, P, D], at these positions of the call: what follows the attention looks
    at no other token. With `laurel` h is averaged with a residual that is learned. With `altup` x is
    [B, T, X, D], and the layer computes this for the prediction of one stream, then corrects all; what it
    makes of e is added to all but the first (both Gemma 3n). A layer with a `scalar` multiplies y by it. One
    with a `kv_layer` gets that layer's new cache, and gives it back as it is.
    """
    vectors, chosen, predictions = inputs.per_layer, inputs.chosen, None
    if config.altup is not None:
        assert "altup" in weights
        predictions = altup_predict(x, weights["altup"], settings=config.altup)
        x = predictions[:, :, config.altup.active]

    def mix(read: Array) -> Array:
        nonlocal cache, chosen
        if isinstance(cache, HybridCache):
            y, cache = _mix_both(read, cache, past, positions, weights, config)
        elif isinstance(mixer := config.attention, LatentAttention):
            assert isinstance(cache, LatentCache)
            leaves, rotary = cast(LatentAttentionWeights, weights["attn"]), positions.angles(mixer.position)
            y, cache, seen = latent_attention(read, cache, past, leaves, rotary, chosen, settings=mixer)
            chosen = chosen if mixer.indexer is None else seen
        else:
            y, cache = _mix(read, cache, past, positions, weights, config.attention)
        return y

    h = _with_laurel(x, _attend(x, weights, config, mix), weights, config)
    if at is not None:
        x, h, vectors, predictions = (_at(values, at) for values in (x, h, vectors, predictions))
    h = _cross(h, inputs.encoder_kv, weights, config)
    y = _mlp(x, h, weights, config)
    if predictions is not None:
        y = _corrected(predictions, y, vectors, weights, config)
    elif (update := _own_update(y, vectors, weights, config)) is not None:
        y = y + update
    return _scaled(y, weights), cache, chosen


def _at(values: Array | None, at: Array) -> Any:
    """What there is for each token of a call, [B, T, ...], of the tokens at [B, P]."""
    if values is None:
        return None
    return np.take_along_axis(values, np.expand_dims(at, tuple(range(2, values.ndim))), axis=1)


@op
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
    """One layer over whole texts x [B, T, D], of whose rows the first `lengths` tokens are real.

    As in `block`, but unless it is `causal` every token sees the whole text; a bias is [B, H, T, T], or
    [1, H, T, T] for all. A convolution of the layer's input is added to its output, and the sum normalized.
    """
    a = config.attention

    def attend(inputs: Array) -> Array:
        if isinstance(a, DisentangledAttention):
            assert positions.distances is not None
            leaves = cast(DisentangledWeights, weights["attn"])
            return disentangled_attention(inputs, lengths, leaves, positions.distances, settings=a)
        if isinstance(a, LongformerAttention):
            leaves = cast(LongformerWeights, weights["attn"])
            return longformer_attention(inputs, lengths, leaves, positions.question, settings=a)
        if isinstance(a, LongT5Attention):
            assert positions.distance_biases is not None
            leaves = cast(LongT5Weights, weights["attn"])
            return longt5_attention(inputs, lengths, leaves, positions.distance_biases, settings=a)
        if isinstance(a, XLNetAttention):
            leaves = cast(XLNetWeights, weights["attn"])
            return xlnet_attention(inputs, lengths, leaves, positions.token_types, settings=a)
        if isinstance(a, LatentAttention):
            leaves, rotary = cast(LatentAttentionWeights, weights["attn"]), positions.angles(a.position)
            return latent_self_attention(inputs, lengths, leaves, rotary, settings=a, causal=causal)
        assert isinstance(a, Attention)
        leaves = cast(CachedAttentionWeights, weights["attn"])
        rotary, bias = rotary_and_bias(a, positions, leaves)
        return self_attention(inputs, lengths, leaves, rotary, bias, settings=a, causal=causal)

    h = _attend(x, weights, config, attend)
    h = _cross(h, encoder_kv, weights, config)
    y = _mlp(x, h, weights, config)
    if config.conv is not None:
        assert "conv" in weights
        near = neighbour_conv(x, lengths, weights["conv"], neighbours=config.conv.neighbours)
        total = y + activation(near, kind=config.conv.activation)
        y = normalize(total, weights.get("conv_after"), norm=config.conv.after)
    return _scaled(y, weights)
