"""A decoder: it takes tokens and a cache, and returns logits and a cache. This module also has the parts that
encoders share with decoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

from ..config import (
    LM,
    Alibi,
    Config,
    ConvPositions,
    ConvStem,
    Decoder,
    Embedding,
    Learned,
    MoonshineStem,
    Position,
    RelativeBias,
    Rope,
    Sinusoidal,
    Stack,
    Stem,
    WaveStem,
)
from .altup import StreamWeights, enter_streams, leave_streams
from .arrays import as_type, concatenate, filled, following, indices, padded, tokens_at, where
from .bias import alibi_bias, alibi_slopes, relative_bias, relative_buckets
from .block import (
    NO_INPUTS,
    BlockWeights,
    LayerInputs,
    MixerCache,
    Passed,
    Positions,
    block,
)
from .cache import KVCache
from .conv_stem import ConvStemWeights, conv_stem
from .cross_attention import EncoderKV
from .disentangled import DistanceTable, distance_rows
from .dispatch import observe, op
from .embedding import embedding, token_dropout
from .head import HeadWeights, logits
from .hyper_connections import HyperWeights, enter_copies, join_streams
from .linear import linear
from .longt5 import DistanceBiases, LongT5Attention
from .mamba2 import HybridCache
from .mask import padding_mask
from .moonshine_stem import MoonshineStemWeights, moonshine_stem
from .mtp import MTPInputWeights, mtp_input
from .norm import NormWeights, normalize
from .per_layer import PerLayerEmbeddingWeights, per_layer_inputs
from .position import Rotary, learned, rope_frequencies, sinusoidal
from .quant import Blocks
from .wave_stem import WaveStemWeights, conv_positions, wave_stem

if TYPE_CHECKING:
    from ..axes import Array, DType, Float

StemWeights = ConvStemWeights | WaveStemWeights | MoonshineStemWeights


class EmbeddingWeights(TypedDict):
    """The parameters of the embedding: its tables, the map from the tables' width to the model's width,
    and the parameters that make the per-layer embeddings.
    """

    table: Float[Array, "N D"] | Blocks
    token_types: NotRequired[Float[Array, "M D"]]
    task_types: NotRequired[Float[Array, "W D"]]
    project: NotRequired[Float[Array, "D F"] | Blocks]
    project_bias: NotRequired[Float[Array, " F"]]
    per_layer: NotRequired[PerLayerEmbeddingWeights]
    apart: NotRequired[Float[Array, " D"]]


class StackWeights(TypedDict):
    """The parameters of a stack: its stem, its layers, its norms, its tables of positions and distances,
    the maps of all streams except the first, and the mixture of streams after the last layer.
    """

    layers: list[BlockWeights]
    stem: NotRequired[StemWeights]
    streams: NotRequired[list[StreamWeights]]
    join: NotRequired[HyperWeights]
    positions: NotRequired[Float[Array, "M D"]]
    position_kernel: NotRequired[Float[Array, "D C A+1"]]
    position_bias: NotRequired[Float[Array, " D"]]
    relative_bias: NotRequired[Float[Array, "W H"]]
    global_relative_bias: NotRequired[Float[Array, "W H"]]
    first_norm: NotRequired[NormWeights]
    norm: NotRequired[NormWeights]
    distances: NotRequired[Float[Array, "W D"]]
    distances_norm: NotRequired[NormWeights]


class MTPWeights(MTPInputWeights, StackWeights):
    """The parameters of a module for multi-token prediction: the parameters that join its two inputs, and
    the parameters of its stack."""


class ModelWeights(TypedDict):
    """The parameters of a model, with the names that `params.shapes` gives."""

    embedding: EmbeddingWeights
    encoder_embedding: NotRequired[EmbeddingWeights]
    encoder: NotRequired[StackWeights]
    reader: NotRequired[StackWeights]
    decoder: NotRequired[StackWeights]
    mtp: NotRequired[MTPWeights]
    head: NotRequired[HeadWeights]


@op
def embed(
    tokens: Array,
    positions: Array,
    weights: EmbeddingWeights,
    stack_weights: StackWeights,
    token_types: Array | None = None,
    lengths: Array | None = None,
    *,
    config: Embedding,
    stack: Stack,
) -> Array:
    """Return the input of the first layer: vectors [B, T, D] of the tokens [B, T] at the given positions
    [B, T].

    The steps come in this order:

    1. the table's rows, times the scale
    2. the vector of the token `apart`
    3. dropping of mask tokens (ESM, texts of `lengths` [B])
    4. map to the model's width (MobileBERT: of three tokens each)
    5. `token_types` [B, T]
    6. the vector of the first task (ERNIE)
    7. positions
    8. norm (BERT, BART, OPT)

    If the stack says so (Blenderbot Small), the norm comes before the positions. A `late` map comes last
    (ELECTRA). A stack with a stem gets a sound instead of tokens: frames [B, 2·T, C] (Whisper), or samples
    [B, N] (wav2vec 2.0).
    """
    if stack.stem is not None:
        assert "stem" in stack_weights
        x = _heard(tokens, stack_weights["stem"], stem=stack.stem)
    else:
        x = embedding(tokens, weights["table"])
        if config.scale is not None:
            x = x * config.scale
        if "apart" in weights:
            x = where((tokens == config.apart)[:, :, None], weights["apart"], x)
    if config.token_dropout is not None:
        assert lengths is not None
        dropout = config.token_dropout
        x = token_dropout(x, tokens == dropout.mask, lengths, share=dropout.share)
    if config.projection is not None and not config.projection.late:
        x = _trigrams(x, lengths) if config.projection.trigram else x
        x = _to_model_width(x, weights)
    if token_types is not None:
        assert "token_types" in weights
        x = x + embedding(token_types, weights["token_types"])
    if "task_types" in weights:
        x = x + weights["task_types"][0]
    if not stack.norm_before_positions:
        x = _add_positions(x, positions, stack_weights, stack=stack)
    x = normalize(x, stack_weights.get("first_norm"), norm=stack.first_norm)
    if stack.norm_before_positions:
        x = _add_positions(x, positions, stack_weights, stack=stack)
    if config.projection is not None and config.projection.late:
        x = _to_model_width(x, weights)
    return x


def _heard(sound: Array, weights: StemWeights, *, stem: Stem) -> Array:
    match stem:
        case ConvStem():
            return conv_stem(sound, cast(ConvStemWeights, weights))
        case WaveStem():
            return wave_stem(sound, cast(WaveStemWeights, weights), settings=stem)
        case MoonshineStem():
            return moonshine_stem(sound, cast(MoonshineStemWeights, weights), settings=stem)
    raise TypeError(f"no op reads a sound for {stem}")


def _add_positions(x: Array, positions: Array, weights: StackWeights, *, stack: Stack) -> Array:
    match stack.positions:
        case Learned(_, offset):
            assert "positions" in weights
            return x + learned(positions, weights["positions"], offset=offset)
        case Sinusoidal(theta, interleaved, offset):
            frequencies = rope_frequencies(indices(x.shape[-1] // 2, x), theta=theta)
            waves = sinusoidal(positions + offset, frequencies, interleaved=interleaved)
            return x + as_type(waves, x.dtype)
        case ConvPositions():
            assert "position_kernel" in weights
            assert "position_bias" in weights
            kernel, bias = weights["position_kernel"], weights["position_bias"]
            return x + conv_positions(x, kernel, bias, settings=stack.positions)
        case None:
            return x


def _trigrams(x: Array, lengths: Array | None) -> Array:
    """Return each token's vector between the vectors of the next token and of the previous token, [B, T,
    3·D].

    Before and after a text of `lengths` [B], vectors are zeros."""
    assert lengths is not None
    t = x.shape[1]
    around = padded(where(padding_mask(indices(t, x), lengths)[:, :, None], x, 0), 1, 1)
    return concatenate([around[:, 2 - i : 2 - i + t] for i in range(3)], axis=2)


def _to_model_width(x: Array, weights: EmbeddingWeights) -> Array:
    assert "project" in weights
    return linear(x, weights["project"], weights.get("project_bias"))


@op
def layer_vectors(tokens: Array, x: Array, weights: EmbeddingWeights, *, config: Embedding) -> Array | None:
    """Return the tokens' per-layer embeddings [B, T, C, F], computed from the input of the first layer.
    Returns None if the layers have none.

    A token without a row in the table of these vectors, such as a token of an image, reads row 0 (Gemma
    3n).
    """
    if config.per_layer is None:
        return None
    assert "per_layer" in weights
    rows = config.per_layer.rows
    known = tokens if rows is None else where(tokens < rows, tokens, 0)
    return per_layer_inputs(known, x, weights["per_layer"], eps=config.per_layer.norm.eps)


@op
def score_biases(
    queries: Array, keys: Array, weights: StackWeights, dtype: DType, *, stack: Stack, bidirectional: bool
) -> dict[tuple[Position, int], Array]:
    """Return the biases [B, H, T, S] that the stack's positions add to scores. The keys of the dict are
    pairs (position, heads), with one entry for each kind of position that adds a bias.

    If layers have their own tables of relative biases, the values are the buckets [B, T, S] in these
    tables.
    """
    biases: dict[tuple[Position, int], Array] = {}
    for a in dict.fromkeys(stack.attentions):
        match a.position:
            case Alibi(max_bias, scale):
                slopes = scale * alibi_slopes(indices(a.heads, keys), max_bias=max_bias)
                biases[a.position, a.heads] = alibi_bias(as_type(slopes, dtype), queries, keys)
            case RelativeBias(count, distance, shared):
                buckets = relative_buckets(
                    queries, keys, buckets=count, max_distance=distance, bidirectional=bidirectional
                )
                if shared:
                    assert "relative_bias" in weights
                    buckets = relative_bias(buckets, weights["relative_bias"])
                biases[a.position, a.heads] = buckets
            case _:
                pass
    return biases


@op
def distance_table(at: Array, weights: StackWeights, *, stack: Stack) -> DistanceTable | None:
    """Return the table of distances between the tokens at the positions `at` [T], for a stack with
    disentangled attention.
    """
    distances = stack.distances
    if distances is None:
        return None
    assert "distances" in weights
    vectors = normalize(weights["distances"], weights.get("distances_norm"), norm=distances.norm)
    rows = distance_rows(at, at, span=distances.span, log_until=distances.log_until)
    return DistanceTable(rows, vectors)


@op
def distance_biases(weights: StackWeights, *, stack: Stack) -> DistanceBiases | None:
    """Return the biases of LongT5's attention for each distance, instead of for each bucket.

    All distances from max_distance on share one bucket, so the result needs no larger distances.
    """
    local = next((mixer for mixer in stack.mixers if isinstance(mixer, LongT5Attention)), None)
    if local is None:
        return None

    def by_distance(longest: int, table: Array) -> Array:
        keys = indices(2 * longest + 1, table)
        buckets = relative_buckets(
            filled(1, longest, table)[None],
            keys,
            buckets=local.position.buckets,
            max_distance=local.position.max_distance,
            bidirectional=True,
        )
        return relative_bias(buckets, table).squeeze(2).squeeze(0)

    assert "relative_bias" in weights
    near = by_distance(local.radius, weights["relative_bias"])
    if local.global_block_size is None:
        return DistanceBiases(near)
    assert "global_relative_bias" in weights
    return DistanceBiases(near, by_distance(local.position.max_distance, weights["global_relative_bias"]))


@op
def model(
    tokens: Array,
    past: Array,
    at: Array,
    rotary: Mapping[Rope, Rotary],
    cache: list[MixerCache],
    params: ModelWeights,
    encoder_kv: list[EncoderKV] | None = None,
    *,
    config: Config,
) -> tuple[Array, list[MixerCache]]:
    """Compute a decoder over the tokens [B, T]. Returns the logits [B, P, N] at the positions `at` [B, P],
    and each layer's new cache.

    `past` [B] tokens of each row are already in the cache, which has room for L ≥ past + T tokens. `at`
    counts from the first token of the call. The last layer's mlp and the output table are computed only at
    these positions. Each table in `rotary` has a row for each of the L positions. A decoder that reads an
    encoder takes the encoder's `encoder_kv`, with one entry for each layer. A layer that reads the keys
    and values of an earlier layer gets the earlier layer's new cache, and has no cache of its own.
    """
    x, new_cache = hidden(tokens, past, at, rotary, cache, params, encoder_kv, config=config)
    return _logits(x, params, config=config), new_cache


@op
def model_with_hidden(
    tokens: Array,
    past: Array,
    at: Array,
    rotary: Mapping[Rope, Rotary],
    cache: list[MixerCache],
    params: ModelWeights,
    *,
    config: Config,
) -> tuple[Array, Array, list[MixerCache]]:
    """Return the results of `model`, and between logits and cache also the vectors [B, T, D] of all tokens
    after the last norm. A module for multi-token prediction reads these vectors (`ops.mtp`).
    """
    vectors, new_cache = hidden(tokens, past, None, rotary, cache, params, config=config)
    return _logits(tokens_at(vectors, at), params, config=config), vectors, new_cache


@op
def mtp_model(
    tokens: Array,
    hidden: Array,
    past: Array,
    at: Array,
    rotary: Mapping[Rope, Rotary],
    cache: list[MixerCache],
    params: ModelWeights,
    *,
    config: Decoder,
) -> tuple[Array, Array, list[MixerCache]]:
    """Compute a module for multi-token prediction (`ops.mtp`). Returns its logits [B, P, N] at the
    positions `at` [B, P], its vectors [B, T, D] after its norm, and its cache.

    The module reads pairs of a token of [B, T] and the model's vector, in `hidden` [B, T, D], for the
    previous token. The cache contains `past` [B] pairs of each row. It is the cache of a single layer.
    """
    decoder = config.mtp_decoder
    assert config.mtp is not None
    assert "mtp" in params
    weights = params["mtp"]
    x = embed(tokens, past, params["embedding"], weights, config=config.embedding, stack=decoder.stack)
    x = mtp_input(x, hidden, weights, eps=config.mtp.norm.eps)
    x, new_cache = _layers(x, tokens, past, None, rotary, cache, weights, [NO_INPUTS], stack=decoder.stack)
    return _logits(tokens_at(x, at), params, config=config), x, new_cache


def hidden(
    tokens: Array,
    past: Array,
    at: Array | None,
    rotary: Mapping[Rope, Rotary],
    cache: list[MixerCache],
    params: ModelWeights,
    encoder_kv: list[EncoderKV] | None = None,
    *,
    config: Config,
) -> tuple[Array, list[MixerCache]]:
    """Return the vectors that `model` computes before its head. This also works for an encoder with layers
    that are computed step by step, like a decoder's.
    """
    *_, name = config.stacks
    stack, weights = config.stacks[name], cast(Mapping[str, StackWeights], params)[name]
    queries = following(past, tokens.shape[1])
    x = embed(tokens, queries, params["embedding"], weights, config=config.embedding, stack=stack)
    x = observe("embedding", x)
    vectors = layer_vectors(tokens, x, params["embedding"], config=config.embedding)
    inputs = [
        LayerInputs(
            None if encoder_kv is None else encoder_kv[i], None if vectors is None else vectors[:, :, i]
        )
        for i in range(len(stack.layers))
    ]
    return _layers(x, tokens, past, at, rotary, cache, weights, inputs, stack=stack)


def _layers(
    x: Array,
    tokens: Array,
    past: Array,
    at: Array | None,
    rotary: Mapping[Rope, Rotary],
    cache: list[MixerCache],
    weights: StackWeights,
    inputs: list[LayerInputs],
    *,
    stack: Stack,
) -> tuple[Array, list[MixerCache]]:
    """Compute a decoder's layers and last norm over x [B, T, D]. Returns the vectors at the positions
    `at`, or at all positions, and the new cache of each layer."""
    capacity = next((kept.capacity for kept in cache if isinstance(kept, KVCache | HybridCache)), 0)
    queries, keys = following(past, x.shape[1]), indices(capacity, past)
    biases = score_biases(queries, keys, weights, x.dtype, stack=stack, bidirectional=False)
    positions = Positions(rotary, biases, embedding=x, tokens=tokens)
    if stack.altup is not None:
        assert "streams" in weights
        x = enter_streams(x, weights["streams"])
    if stack.hyper is not None:
        x = enter_copies(x, streams=stack.hyper.streams)
    last, new_cache, passed = len(stack.layers) - 1, [], Passed()
    for i, (layer, leaves, old) in enumerate(zip(stack.layers, weights["layers"], cache, strict=True)):
        output_positions = at if i == last else None
        read = old if layer.kv_layer is None else new_cache[layer.kv_layer]
        own = inputs[i]._replace(passed=passed)
        x, new, passed = block(x, read, past, positions, leaves, own, output_positions, config=layer)
        new_cache.append(new if layer.kv_layer is None else old)
    if stack.altup is not None:
        assert "streams" in weights
        x = leave_streams(x, weights["streams"])
    if stack.hyper is not None:
        assert "join" in weights
        x = join_streams(x, weights["join"], settings=stack.hyper)
    return normalize(x, weights.get("norm"), norm=stack.final_norm), new_cache


def _logits(x: Array, params: ModelWeights, *, config: Config) -> Array:
    """Return the logits [B, P, N] that a decoder's head computes from the vectors x [B, P, D]."""
    assert isinstance(config.head, LM)
    return logits(x, params.get("head", {}), params["embedding"], head=config.head)
