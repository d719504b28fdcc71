"""One layer: norm, attention, residual; norm, mlp, residual. The Config's unions are resolved here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from ...refimpl.config import (
    LSTM,
    Attention,
    DisentangledAttention,
    Gated,
    GatedDelta,
    LatentAttention,
    Layer,
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
    RelativeBias,
    RMSNorm,
    Rope,
    ShortConv,
    TokenMixer,
    XLNetAttention,
)
from ...refimpl.ops.activation import activation
from ...refimpl.ops.altup import altup_correct, altup_predict
from ...refimpl.ops.attention import attention
from ...refimpl.ops.bias import relative_bias
from ...refimpl.ops.block import (
    NO_INPUTS,
    BlockWeights,
    CachedAttentionWeights,
    LayerInputs,
    MixerCache,
    NormWeights,
    Positions,
)
from ...refimpl.ops.cache import KVCache
from ...refimpl.ops.cross_attention import EncoderKV, cross_attention
from ...refimpl.ops.disentangled import DisentangledWeights, disentangled_attention
from ...refimpl.ops.gated_delta import GatedDeltaWeights, gated_delta
from ...refimpl.ops.latent_attention import (
    LatentAttentionWeights,
    LatentCache,
    latent_attention,
    latent_self_attention,
)
from ...refimpl.ops.laurel import laurel
from ...refimpl.ops.linear_attention import LinearAttentionWeights, LinearState, linear_attention
from ...refimpl.ops.longformer import LongformerWeights, longformer_attention
from ...refimpl.ops.longt5 import LongT5Weights, longt5_attention
from ...refimpl.ops.lstm import LstmLayerWeights, LstmState, lstm_layer
from ...refimpl.ops.mamba import ChannelState, MambaWeights, mamba
from ...refimpl.ops.mamba2 import HybridCache, Mamba2Weights, mamba2
from ...refimpl.ops.mlp import GatedMlpWeights, PlainMlpWeights, gated_mlp, plain_mlp
from ...refimpl.ops.moe import MoEWeights, moe
from ...refimpl.ops.neighbour_conv import neighbour_conv
from ...refimpl.ops.norm import layer_norm, rms_norm
from ...refimpl.ops.per_layer import per_layer_update
from ...refimpl.ops.position import Rotary
from ...refimpl.ops.self_attention import self_attention
from ...refimpl.ops.shared_attention import SharedAttentionWeights, shared_attention
from ...refimpl.ops.short_conv import ConvState, MatrixState, ShortConvWeights, short_conv
from ...refimpl.ops.xlnet import XLNetWeights, xlnet_attention
from ..torch_bodies import torch_body

if TYPE_CHECKING:
    from torch import Tensor as Array


@torch_body
def normalize(x: Array, weights: NormWeights | None, *, norm: Norm | None) -> Array:
    """x normalized by the Config's norm, or x itself without one."""
    if norm is None:
        return x
    leaves = {} if weights is None else weights
    if isinstance(norm, RMSNorm):
        return rms_norm(x, leaves.get("weight"), eps=norm.eps)
    return layer_norm(x, leaves.get("weight"), leaves.get("bias"), eps=norm.eps)


def _rotary_and_bias(
    a: Attention, positions: Positions, weights: CachedAttentionWeights
) -> tuple[Rotary | None, Array | None]:
    """The rotation of a sublayer's queries and keys, and the bias of its scores."""
    if a.position is None:
        return None, None
    if isinstance(a.position, Rope):
        return positions.rotary[a.position], None
    bias = positions.biases[a.position, a.heads]
    if isinstance(a.position, RelativeBias) and not a.position.shared:
        assert "relative_bias" in weights
        bias = relative_bias(bias, weights["relative_bias"])
    return None, bias


def _times(x: Array, scale: float | None) -> Array:
    return x if scale is None else scale * x


def _sum(
    x: Array, inputs: Array, y: Array, post: NormWeights | None, after: NormWeights | None,
    *, layer: Layer, sublayer: TokenMixer | Mlp,
) -> Array:  # fmt: skip
    """The residual sum of a sublayer with output y: y is added to x, or to the normalized `inputs`."""
    y = _times(normalize(y, post, norm=sublayer.post), layer.scale)
    added = inputs if layer.residual == "norm" else x
    return normalize(added + y, after, norm=sublayer.after)


def _mlp(x: Array, attention_input: Array, middle: Array, weights: BlockWeights, *, layer: Layer) -> Array:
    """The mlp and its residual sum; `attention_input` is the normalized x."""
    m, leaves = layer.mlp, weights.get("mlp")
    if isinstance(m, NoMlp):
        return middle
    source = middle
    if layer.parallel:
        source = attention_input if m.pre is None else x
    inputs = normalize(source, weights.get("mlp_pre"), norm=m.pre)
    match m:
        case Gated():
            gated = cast(GatedMlpWeights, leaves)
            more: dict[str, Any] = {"gate_scale": m.gate_scale, "sparsity": m.sparsity}
            more |= {} if m.down_norm is None else {"norm_eps": m.down_norm.eps}
            y = _times(gated_mlp(inputs, gated, kind=m.activation, **more), m.scale)
        case Plain():
            y = plain_mlp(inputs, cast(PlainMlpWeights, leaves), kind=m.activation)
        case MoE():
            y = moe(inputs, cast(MoEWeights, leaves), settings=m)
    post, after = weights.get("mlp_post"), weights.get("mlp_after")
    return _sum(middle, inputs, y, post, after, layer=layer, sublayer=m)


def _cross(x: Array, encoder_kv: EncoderKV, weights: BlockWeights, *, layer: Layer) -> Array:
    """Cross-attention and its residual sum."""
    c, leaves = layer.cross, weights.get("cross")
    assert c is not None
    assert leaves is not None
    inputs = normalize(x, weights.get("cross_pre"), norm=c.pre)
    y = cross_attention(inputs, encoder_kv, leaves, settings=c)
    post, after = weights.get("cross_post"), weights.get("cross_after")
    return _sum(x, inputs, y, post, after, layer=layer, sublayer=c)


def _mix(
    x: Array, cache: MixerCache, past: Array, positions: Positions, weights: BlockWeights, *, layer: Layer
) -> tuple[Array, MixerCache]:
    """The function of the layer's kind of mixer."""
    mixer = layer.attention
    if isinstance(mixer, LSTM):
        return lstm_layer(x, cast(LstmState, cache), past, cast(LstmLayerWeights, weights["attn"]))
    if isinstance(mixer, ShortConv):
        return short_conv(x, cast(ConvState, cache), past, cast(ShortConvWeights, weights["attn"]))
    if isinstance(mixer, GatedDelta):
        delta = cast(GatedDeltaWeights, weights["attn"])
        return gated_delta(x, cast(MatrixState, cache), past, delta, settings=mixer)
    if isinstance(mixer, Mamba):
        return mamba(x, cast(ChannelState, cache), past, cast(MambaWeights, weights["attn"]), settings=mixer)
    if isinstance(mixer, Mamba2):
        return mamba2(x, cast(MatrixState, cache), past, cast(Mamba2Weights, weights["attn"]), settings=mixer)
    if isinstance(mixer, LinearAttention):
        leaves = cast(LinearAttentionWeights, weights["attn"])
        return linear_attention(x, cast(LinearState, cache), past, leaves, settings=mixer)
    assert isinstance(mixer, Attention)
    if mixer.kv_layer is not None:
        asking = cast(SharedAttentionWeights, weights["attn"])
        rotary = positions.angles(mixer.position)
        return shared_attention(x, cast(KVCache, cache), past, asking, rotary, settings=mixer), cache
    leaves = cast(CachedAttentionWeights, weights["attn"])
    rotary, bias = _rotary_and_bias(mixer, positions, leaves)
    scales = {"k_scale": leaves.get("k_scale"), "v_scale": leaves.get("v_scale")}
    kv = cast(KVCache, cache)._replace(**scales)
    return attention(x, kv, past, leaves, rotary, bias, settings=mixer)


def _mix_both(
    x: Array, cache: HybridCache, past: Array, positions: Positions, weights: BlockWeights, *, layer: Layer
) -> tuple[Array, HybridCache]:
    """Two mixers on one input, and their sum."""
    both = layer.beside
    assert both is not None
    assert "beside" in weights
    states_input, read = _times(x, both.scale_in), _times(x, both.attention_in)
    z, states = mamba2(states_input, cache.states, past, weights["beside"], settings=both.mixer)
    y, kv = _mix(read, cache.attention, past, positions, weights, layer=layer)
    keys, values, *_ = cast(KVCache, kv)
    new = cache._replace(keys=keys, values=values, tail=states.tail, state=states.state, lengths=None)
    return _times(y, both.attention_out) + _times(z, both.scale_out), new


@torch_body
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
    """Two or three sublayers, each with its residual sum, and what the layer makes of its own vectors."""
    a, vectors, altup, streams = config.attention, inputs.per_layer, config.altup, None
    chosen = inputs.chosen
    if altup is not None:
        assert "altup" in weights
        streams = altup_predict(x, weights["altup"], settings=altup)
        x = streams[:, :, altup.active]
    read = normalize(x, weights.get("attn_pre"), norm=a.pre)
    if config.beside is not None:
        y, cache = _mix_both(read, cast(HybridCache, cache), past, positions, weights, layer=config)
    elif isinstance(a, LatentAttention):
        leaves, rotary = cast(LatentAttentionWeights, weights["attn"]), positions.angles(a.position)
        kept = cast(LatentCache, cache)
        y, cache, seen = latent_attention(read, kept, past, leaves, rotary, chosen, settings=a)
        if a.indexer is not None:
            chosen = seen
    else:
        y, cache = _mix(read, cache, past, positions, weights, layer=config)
    post, after = weights.get("attn_post"), weights.get("attn_after")
    middle = _sum(x, read, y, post, after, layer=config, sublayer=a)
    if config.laurel is not None:
        assert "laurel" in weights
        middle = laurel(read, middle, weights["laurel"], eps=config.laurel.norm.eps)
    if at is not None:
        x, read, middle = _at(x, at), _at(read, at), _at(middle, at)
        vectors = None if vectors is None else _at(vectors, at)
        streams = None if streams is None else _at(streams.flatten(2), at).unflatten(2, streams.shape[2:])
    if inputs.encoder_kv is not None:
        middle = _cross(middle, inputs.encoder_kv, weights, layer=config)
    y = active = _mlp(x, read, middle, weights, layer=config)
    if altup is not None and streams is not None:
        assert "altup" in weights
        y = altup_correct(streams, y, weights["altup"], settings=altup)
        active = y[:, :, altup.active]
    if config.per_layer is not None:
        assert vectors is not None
        assert "per_layer" in weights
        update = per_layer_update(active, vectors, weights["per_layer"], kind=config.per_layer.activation)
        update = normalize(update, weights.get("per_layer_post"), norm=config.per_layer.post)
        if altup is None:
            y = update + y
        else:
            y = torch.cat([y[:, :, :1], update.unsqueeze(2) + y[:, :, 1:]], dim=2)
    return y * weights["scalar"] if "scalar" in weights else y, cache, chosen


def _at(x: Array, at: Array) -> Array:
    """The vectors of x [B, T, D] at the positions [B, P] of the call."""
    return x.gather(1, at.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


@torch_body
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
    """Two or three sublayers, each with its residual sum, and a convolution with its own."""
    a = config.attention
    inputs = normalize(x, weights.get("attn_pre"), norm=a.pre)
    if isinstance(a, DisentangledAttention):
        assert positions.distances is not None
        distant = cast(DisentangledWeights, weights["attn"])
        y = disentangled_attention(inputs, lengths, distant, positions.distances, settings=a)
    elif isinstance(a, LongformerAttention):
        local = cast(LongformerWeights, weights["attn"])
        y = longformer_attention(inputs, lengths, local, positions.question, settings=a)
    elif isinstance(a, LongT5Attention):
        assert positions.distance_biases is not None
        windowed = cast(LongT5Weights, weights["attn"])
        y = longt5_attention(inputs, lengths, windowed, positions.distance_biases, settings=a)
    elif isinstance(a, XLNetAttention):
        relative = cast(XLNetWeights, weights["attn"])
        y = xlnet_attention(inputs, lengths, relative, positions.token_types, settings=a)
    elif isinstance(a, LatentAttention):
        latent, rotary = cast(LatentAttentionWeights, weights["attn"]), positions.angles(a.position)
        y = latent_self_attention(inputs, lengths, latent, rotary, settings=a, causal=causal)
    else:
        assert isinstance(a, Attention)
        leaves = cast(CachedAttentionWeights, weights["attn"])
        rotary, bias = _rotary_and_bias(a, positions, leaves)
        y = self_attention(inputs, lengths, leaves, rotary, bias, settings=a, causal=causal)
    post, after = weights.get("attn_post"), weights.get("attn_after")
    middle = _sum(x, inputs, y, post, after, layer=config, sublayer=a)
    if encoder_kv is not None:
        middle = _cross(middle, encoder_kv, weights, layer=config)
    y = _mlp(x, inputs, middle, weights, layer=config)
    conv = config.conv
    if conv is not None:
        assert "conv" in weights
        near = neighbour_conv(x, lengths, weights["conv"], neighbours=conv.neighbours)
        y = activation(near, kind=conv.activation) + y
        y = normalize(y, weights.get("conv_after"), norm=conv.after)
    return y * weights["scalar"] if "scalar" in weights else y
