"""One layer of a transformer: norm, attention, residual sum; then norm, mlp, residual sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict, cast

from ..config import Attention, Layer, Mlp, MoE, Position, Rope, TokenMixer
from .activation import activation
from .altup import AltUpWeights, altup_correct, altup_predict
from .arrays import concatenate, tokens_at
from .attention import CachedAttentionWeights, attention
from .bias import relative_bias
from .cache import KVCache
from .cross_attention import CrossAttentionWeights, CrossKeyWeights, EncoderKV, cross_attention
from .disentangled import DistanceTable
from .dispatch import OPS, observe, op
from .hyper_connections import HyperWeights, mix_streams, to_streams
from .laurel import LaurelWeights, laurel
from .longt5 import DistanceBiases
from .mamba2 import HybridCache
from .merged_attention import EncoderText, merged_attention
from .mlp import GatedMlpWeights, PlainMlpWeights
from .moe import MoEWeights, expert_mlp, moe
from .neighbour_conv import NeighbourConvWeights, neighbour_conv
from .norm import NormWeights, normalize
from .per_layer import PerLayerWeights, per_layer_update
from .position import Rotary
from .self_attention import self_attention
from .shared_attention import SharedAttentionWeights, shared_attention

if TYPE_CHECKING:
    from ..axes import Array, Float

MixerCache = Any  # what a layer keeps of earlier tokens: the value of its mixer's `CacheKind`
MixerWeights = Mapping[str, Any]  # the leaves of its mixer, which `TokenMixer.weights` names


class CrossWeights(CrossKeyWeights, CrossAttentionWeights):
    """The parameters of cross-attention: the maps of a layer's tokens, and the maps of the encoder's
    output.
    """


class BlockWeights(TypedDict):
    """The parameters of a layer: its sublayers, and the norms `pre`, `post` and `after` of each sublayer.

    A layer may also have parameters of a convolution, of a state space beside its attention, of its
    per-layer embeddings, of a learned residual (LAuReL), and of the maps between its streams (AltUp,
    hyper-connections).
    """

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
    beside: NotRequired[MixerWeights]
    scalar: NotRequired[Float[Array, " 1"]]
    per_layer: NotRequired[PerLayerWeights]
    per_layer_post: NotRequired[NormWeights]
    laurel: NotRequired[LaurelWeights]
    altup: NotRequired[AltUpWeights]
    attn_hyper: NotRequired[HyperWeights]
    mlp_hyper: NotRequired[HyperWeights]


class Positions(NamedTuple):
    """The information about the tokens and their positions that all layers share.

    rotary: cosines and sines for each `Rope`.
    biases: the biases [B, H, T, S] to add to scores, for each kind of position that adds one and each number
        of heads. If each layer has its own table of biases, the buckets [B, T, S] in these tables instead.
    distances: the table of distances that disentangled attention reads.
    question: the position [B] at which each row's question ends, in a stack whose question is global.
    distance_biases: the biases of LongT5's attention.
    token_types: the segment of each token [B, T], for XLNet's attention.
    embedding: the input of the first layer [B, T, D], which Zamba 2's shared blocks read.
    tokens: the tokens of the call [B, T], which a memory of n-grams reads.
    """

    rotary: Mapping[Rope, Rotary]
    biases: Mapping[tuple[Position, int], Array]
    distances: DistanceTable | None = None
    question: Array | None = None
    distance_biases: DistanceBiases | None = None
    token_types: Array | None = None
    embedding: Array | None = None
    tokens: Array | None = None

    def angles(self, position: Position | None) -> Rotary | None:
        """Return the cosines and sines of rotary positions. Returns None if there are no positions or if
        they aren't rotary.
        """
        return self.rotary[position] if isinstance(position, Rope) else None


class Passed(NamedTuple):
    """The values that a layer passes to the next layer besides its vectors.

    One value is a mask [B, T, L] of the cache entries that the latest indexer chose for each token
    (`ops.indexer`). The other is a sum of experts [B, T, D], which the next layer adds to its own output
    (`MoE.late`).
    """

    chosen: Array | None = None
    late: Array | None = None


class LayerInputs(NamedTuple):
    """The values that a layer may read besides the vectors of the previous layer.

    They are the keys and values of an encoder's text, the layer's own vectors [B, T, F] for the tokens
    (`ops.per_layer`), and the values that the previous layer passes on.
    """

    encoder_kv: EncoderKV | None = None
    per_layer: Array | None = None
    passed: Passed = Passed()


NO_INPUTS = LayerInputs()


def rotary_and_bias(
    a: Attention, positions: Positions, weights: CachedAttentionWeights
) -> tuple[Rotary | None, Array | None]:
    """Return the rotation of an attention's queries and keys, and the bias of its scores."""
    if a.position is None or not a.position.adds:
        return positions.angles(a.position), None
    bias = positions.biases[a.position, a.heads]
    return None, relative_bias(bias, weights["relative_bias"]) if "relative_bias" in weights else bias


def _times(x: Array, scale: float | None) -> Array:
    return x if scale is None else x * scale


class _Norms(NamedTuple):
    """The parameters of the norms after a sublayer."""

    post: NormWeights | None
    after: NormWeights | None


def _sum(x: Array, read: Array, y: Array, norms: _Norms, layer: Layer, config: TokenMixer | Mlp) -> Array:
    """Compute after(x + scale · post(y)): the residual sum of a sublayer that read `read` and returned y.

    If the layer's `residual` is at the norm, y is added to `read` instead of x.
    """
    y = _times(normalize(y, norms.post, norm=config.post), layer.scale)
    return normalize((read if layer.residual == "norm" else x) + y, norms.after, norm=config.after)


def _cross(x: Array, encoder_kv: EncoderKV | None, weights: BlockWeights, layer: Layer) -> Array:
    """Return x after the sublayer that reads an encoder, or x itself if the layer has no such sublayer."""
    cross, leaves = layer.cross, weights.get("cross")
    if layer.merged or cross is None or leaves is None or encoder_kv is None:
        return x
    read = normalize(x, weights.get("cross_pre"), norm=cross.pre)
    y = cross_attention(read, encoder_kv, leaves, settings=cross)
    norms = _Norms(weights.get("cross_post"), weights.get("cross_after"))
    return _sum(x, read, y, norms, layer, cross)


def _read(x: Array, weights: HyperWeights | None, layer: Layer) -> tuple[Array, Array | None]:
    """Return what a sublayer reads, before its norm, and the weights with which its output is added to
    streams. Without weights of a mixture the sublayer reads x, and there are none.
    """
    if weights is None:
        return x, None
    assert layer.hyper is not None
    return mix_streams(x, weights, settings=layer.hyper)


def _mlp(x: Array, mixed: Array, h: Array, weights: BlockWeights, layer: Layer) -> tuple[Array, Array | None]:
    """Compute the mlp over h, and what the next layer adds. Without an mlp, return h.

    A parallel mlp reads x instead of h. If it has no norm, it reads `mixed`, which the mixer read.
    """
    mlp, leaves, late = layer.mlp, weights.get("mlp"), None
    if mlp.op is None or leaves is None:
        return h, None
    source, openings = _read(h, weights.get("mlp_hyper"), layer)
    if layer.parallel:
        source = mixed if mlp.pre is None else x
    read = observe("mlp, input", normalize(source, weights.get("mlp_pre"), norm=mlp.pre))
    norms = _Norms(weights.get("mlp_post"), weights.get("mlp_after"))
    if isinstance(mlp, MoE) and mlp.late:
        parts: Any = leaves
        late = moe(read, cast(MoEWeights, {**parts, "shared": None}), settings=mlp)
        y = expert_mlp(read, parts["shared"], kind=mlp.shared_kind)
    else:
        y = _times(OPS[mlp.op](read, leaves, **mlp.settings), mlp.output_scale)
    return _sum(h, read, to_streams(y, openings), norms, layer, mlp), late


def _mix(
    x: Array,
    cache: MixerCache,
    past: Array,
    positions: Positions,
    weights: MixerWeights,
    mixer: TokenMixer,
    chosen: Array | None,
) -> tuple[Array, MixerCache, Array | None]:
    """Compute the sublayer that moves information between tokens. Returns its output, its new cache, and
    the mask that an indexer chose.
    """
    if not isinstance(mixer, Attention):
        return mixer.mix(x, cache, past, weights, positions, chosen)
    assert isinstance(cache, KVCache)
    if mixer.kv_layer is not None:
        queries = cast(SharedAttentionWeights, weights)
        rotary = positions.angles(mixer.position)
        return shared_attention(x, cache, past, queries, rotary, settings=mixer), cache, chosen
    leaves = cast(CachedAttentionWeights, weights)
    rotary, bias = rotary_and_bias(mixer, positions, leaves)
    cache = cache._replace(k_scale=leaves.get("k_scale"), v_scale=leaves.get("v_scale"))
    return *attention(x, cache, past, leaves, rotary, bias, settings=mixer), chosen


def _mix_both(
    x: Array, cache: HybridCache, past: Array, positions: Positions, weights: BlockWeights, layer: Layer
) -> tuple[Array, HybridCache]:
    """Return the sum of attention and of the state space beside it, each between its multipliers, and both
    caches.

    y = attention_out · attention(attention_in · x) + scale_out · state_space(scale_in · x)
    """
    both = layer.beside
    assert both is not None
    assert "beside" in weights
    inner = _times(x, both.scale_in)
    z, states, _ = _mix(inner, cache.states, past, positions, weights["beside"], both.mixer, None)
    read = _times(x, both.attention_in)
    y, kv, _ = _mix(read, cache.attention, past, positions, weights["attn"], layer.attention, None)
    return _times(y, both.attention_out) + _times(z, both.scale_out), HybridCache(*kv[:2], *states)


def _merge(
    x: Array, cache: MixerCache, past: Array, positions: Positions, kv: Any, attn: Any, mixer: Any
) -> tuple[Array, MixerCache]:
    """Compute attention to earlier tokens and to an encoder's text `kv` in one softmax. Returns the output
    and the new cache.
    """
    rotary = positions.angles(mixer.position)
    return merged_attention(x, cache, past, EncoderText(*kv), attn, rotary, settings=mixer)


def _own_update(y: Array, vectors: Array | None, weights: BlockWeights, layer: Layer) -> Array | None:
    """Return the update that a layer makes from its own vectors of the tokens, or None if it has none."""
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
    """Return all streams after a layer, corrected by the output of the active stream.

    The update from the layer's own vectors is added to all streams except the first.
    """
    assert layer.altup is not None
    assert "altup" in weights
    streams = altup_correct(predictions, y, weights["altup"], settings=layer.altup)
    update = _own_update(streams[:, :, layer.altup.active], vectors, weights, layer)
    if update is None:
        return streams
    return concatenate([streams[:, :, :1], streams[:, :, 1:] + update[:, :, None]], axis=2)


def _scaled(y: Array, weights: BlockWeights) -> Array:
    """Multiply a layer's output by the number that the layer learned, if it has one."""
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
) -> tuple[Array, MixerCache, Passed]:
    """Compute one layer of a decoder over x [B, T, D]. Returns the new x, the layer's new cache, and the
    values that this layer passes to the next layer.

    Sequential: h = x + attention(norm(x)); y = h + mlp(norm(h)) (pre-norm, Xiong et al. 2020). Parallel: y
    = x + attention(norm(x)) + mlp(norm'(x)) (GPT-NeoX), or with mlp(norm(x)) if the mlp has no norm' of
    its own (GPT-J, Wang & Komatsuzaki 2021).

    - Each sublayer may also have a norm of its output before the sum (`post`: Gemma 2's sandwich), and a norm
      of the sum (`after`: the original post-norm).
    - A layer that reads an encoder has cross-attention between attention and mlp, over `encoder_kv` of its
      `inputs`. If it is `merged`, the attention itself also reads `encoder_kv`.
    - A state space may be beside the attention. Both read norm(x), and their outputs are added
      (Falcon-H1, Zuo et al. 2025, §2).
    - A layer with its own vectors e of the tokens adds post(`per_layer_update`(y, e)) to y (Gemma 3n).
    - With `at` [B, P] the new x is [B, P, D], at these positions of the call, since the steps after the
      attention read no other token.
    - With `laurel` h is averaged with a residual that is learned. With `altup` x is [B, T, X, D]: the layer
      computes one stream from its prediction, then corrects all streams. The update from its vectors e is
      added to all streams except the first (both Gemma 3n).
    - With `hyper` x is [B, T, X, D] too. Each sublayer reads a mixture of the streams and adds its output to
      each of them, except a mixer that itself reads and changes streams (Qwen4-Exp).
    - A sum of experts that the previous layer passes on is added to y. So this layer's attention can be
      computed while other devices compute these experts (LongCat, Meituan 2025, §2.2, "shortcut-connected").
    - A layer with a `scalar` multiplies y by it.
    - A layer with a `kv_layer` gets that layer's new cache, and returns it unchanged.
    """
    mixer, vectors, (chosen, late), predictions = config.attention, inputs.per_layer, inputs.passed, None
    if config.altup is not None:
        assert "altup" in weights
        predictions = altup_predict(x, weights["altup"], settings=config.altup)
        x = predictions[:, :, config.altup.active]
    source, openings = _read(x, weights.get("attn_hyper"), config)
    read = observe("attention, input", normalize(source, weights.get("attn_pre"), norm=mixer.pre))
    if config.beside is not None:
        y, cache = _mix_both(read, cache, past, positions, weights, config)
    elif config.merged:
        y, cache = _merge(read, cache, past, positions, inputs.encoder_kv, weights["attn"], mixer)
    else:
        y, cache, chosen = _mix(read, cache, past, positions, weights["attn"], mixer, chosen)
    norms = _Norms(weights.get("attn_post"), weights.get("attn_after"))
    h = _sum(x, read, to_streams(y, openings), norms, config, mixer)
    if config.laurel is not None:
        assert "laurel" in weights
        h = laurel(read, h, weights["laurel"], eps=config.laurel.norm.eps)
    h = observe("attention, output", h)
    if at is not None:
        x, read, h = (tokens_at(values, at) for values in (x, read, h))
        vectors, predictions, late = (
            None if v is None else tokens_at(v, at) for v in (vectors, predictions, late)
        )
    h = _cross(h, inputs.encoder_kv, weights, config)
    y, own = _mlp(x, read, h, weights, config)
    y = y if late is None else y + late
    if predictions is not None:
        y = _corrected(predictions, y, vectors, weights, config)
    elif (update := _own_update(y, vectors, weights, config)) is not None:
        y = y + update
    return observe("output", _scaled(y, weights)), cache, Passed(chosen, own)


@op
def encoder_block(
    x: Array,
    lengths: Array,
    positions: Positions,
    weights: BlockWeights,
    inputs: LayerInputs = NO_INPUTS,
    *,
    config: Layer,
    causal: bool,
) -> Array:
    """Compute one layer over whole texts x [B, T, D]. In each row, the first `lengths` tokens are real.

    The computation is the same as in `block`, but every token sees the whole text unless the layer is
    `causal`. A bias is [B, H, T, T], or [1, H, T, T] for all rows. If the layer has a convolution of its
    input, the convolution's result is added to the layer's output, and the sum is normalized. At the end,
    the layer adds the update from its own vectors of the tokens.
    """
    mixer = config.attention
    read = normalize(x, weights.get("attn_pre"), norm=mixer.pre)
    y = _mix_whole(read, lengths, positions, weights, mixer, causal)
    h = _sum(x, read, y, _Norms(weights.get("attn_post"), weights.get("attn_after")), config, mixer)
    h = _cross(h, inputs.encoder_kv, weights, config)
    y, _ = _mlp(x, read, h, weights, config)
    if config.conv is not None:
        assert "conv" in weights
        near = neighbour_conv(x, lengths, weights["conv"], neighbours=config.conv.neighbours)
        total = activation(near, kind=config.conv.activation) + y
        y = normalize(total, weights.get("conv_after"), norm=config.conv.after)
    if (update := _own_update(y, inputs.per_layer, weights, config)) is not None:
        y = y + update
    return _scaled(y, weights)


def _mix_whole(
    x: Array, lengths: Array, positions: Positions, weights: BlockWeights, mixer: TokenMixer, causal: bool
) -> Array:
    """Compute the sublayer that moves information between the tokens of whole texts."""
    attn: Any = weights["attn"]
    if not isinstance(mixer, Attention):
        return mixer.mix_whole(x, lengths, attn, positions, causal)
    rotary, bias = rotary_and_bias(mixer, positions, attn)
    return self_attention(x, lengths, attn, rotary, bias, settings=mixer, causal=causal)
