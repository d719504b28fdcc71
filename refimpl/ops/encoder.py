"""An encoder: it computes one vector for each token of a whole text, and a head computes the output from
these vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..config import Config, DecoderReader, EncoderDecoder, Head, Layer, Rope, Stack
from .arrays import indices, largest, rows_at, shifted_right, tokens_at, where, zeros_like
from .block import BlockWeights, LayerInputs, MixerCache, Positions, encoder_block
from .cross_attention import EncoderKV, cross_keys
from .dispatch import op
from .head import predictions
from .longformer import question_end
from .mask import padding_mask
from .model import (
    ModelWeights,
    StackWeights,
    distance_biases,
    distance_table,
    embed,
    hidden,
    layer_vectors,
    score_biases,
)
from .norm import normalize
from .position import Rotary

if TYPE_CHECKING:
    from ..axes import Array


@op
def encode(
    tokens: Array,
    lengths: Array,
    rotary: Mapping[Rope, Rotary],
    params: ModelWeights,
    token_types: Array | None = None,
    cache: list[MixerCache] | None = None,
    *,
    config: Config,
) -> Array:
    """Return the last layer's vectors [B, T, D] for the tokens [B, T]. In each row, the first `lengths`
    [B] tokens are real.

    `token_types` [B, T] says to which text of a pair a token belongs. Without it, all tokens belong to the
    first text. `rotary` has a row for each of the positions 0 … T − 1. If the Config has a reader, the
    result is the reader's vectors. Some layers can be computed only with a cache, as in a decoder
    (`Stack.stepwise`). These layers begin with the empty `cache`, which has room for T tokens. Rows are
    padded on the right, so no token reads cache entries of padding. An encoder of sound gets frames [B,
    2·T, C] or samples [B, N] instead of tokens. All frames and samples must be real.
    """
    stack = config.stacks["encoder"]
    if stack.stepwise:
        assert cache is not None
        return hidden(tokens, zeros_like(lengths), None, rotary, cache, params, config=config)[0]
    assert "encoder" in params
    if config.embedding.token_types is not None and token_types is None:
        token_types = zeros_like(tokens)
    named: Any = params
    entry: Any = named[config.text_tables] if config.stem is None else {}  # what hears looks no tokens up
    # Where it reads samples, nothing is added that depends on a position's number.
    frames = None if config.sound_shape is None else config.sound_shape[0]
    at = indices(config.positions(frames) if isinstance(frames, int) else tokens.shape[1], tokens)[None]
    table_types, segments = (None, token_types) if stack.segments else (token_types, None)
    x = embed(
        tokens, at, entry, params["encoder"], table_types, lengths, config=config.text_embedding, stack=stack
    )
    if stack.stem is not None:
        # By places: a graph couldn't tell that its tables have a row for each of these vectors.
        at = indices(x.shape[1], x)
        rotary = {one: Rotary(rows_at(of.cos, at), rows_at(of.sin, at)) for one, of in rotary.items()}
    question = None if stack.separator is None else question_end(tokens, separator=stack.separator)
    vectors = layer_vectors(tokens, x, entry, config=config.embedding)
    states = _layers(x, lengths, rotary, params["encoder"], None, question, segments, vectors, stack=stack)
    if not (isinstance(config, EncoderDecoder) and isinstance(config.decoder, DecoderReader)):
        return states
    assert "reader" in params
    stack, shifted = config.decoder.stack, reader_tokens(tokens, lengths, reader=config.decoder)
    x = embed(shifted, at, entry, params["reader"], config=config.embedding, stack=stack)
    return _layers(x, lengths, rotary, params["reader"], states, stack=stack)


@op
def reader_tokens(tokens: Array, lengths: Array, *, reader: DecoderReader) -> Array:
    """Return the tokens [B, T] that a decoder gets if it is used as a reader for a text: the text's
    tokens, moved one place to the right.
    """
    if reader.start is not None:
        return shifted_right(tokens, reader.start)
    last = (lengths - 1).clip(0)[:, None]
    return shifted_right(tokens, tokens_at(tokens[:, :, None], last).squeeze(2))


@op
def pooled_lengths(tokens: Array, lengths: Array, *, head: Head) -> Array:
    """Return how many tokens [B] of each text the head reads in `predict`: all tokens, or only the tokens
    up to the last `end` token.
    """
    if head.end is None:
        return lengths
    at = indices(tokens.shape[1], tokens)
    ends = (tokens == head.end) & padding_mask(at, lengths)
    found = largest(where(ends, at + 1, 0), 1)
    return where(found > 0, found, lengths)


def _layers(
    x: Array,
    lengths: Array,
    rotary: Mapping[Rope, Rotary],
    weights: StackWeights,
    states: Array | None = None,
    question: Array | None = None,
    segments: Array | None = None,
    vectors: Array | None = None,
    *,
    stack: Stack,
) -> Array:
    """Compute the output of a stack over whole texts. A reader's layers attend to an encoder's `states`.

    `vectors` [B, T, C, F] are the own vectors of each layer for the tokens.
    """
    at = indices(x.shape[1], x)
    biases = score_biases(at[None], at, weights, x.dtype, stack=stack, bidirectional=not stack.causal)
    table, local = distance_table(at, weights, stack=stack), distance_biases(weights, stack=stack)
    positions = Positions(rotary, biases, table, question, local, segments)
    for i, (layer, leaves) in enumerate(zip(stack.layers, weights["layers"], strict=True)):
        read = None if states is None else layer_kv(states, lengths, leaves, layer=layer)
        inputs = LayerInputs(read, None if vectors is None else vectors[:, :, i])
        x = encoder_block(x, lengths, positions, leaves, inputs, config=layer, causal=stack.causal)
    return normalize(x, weights.get("norm"), norm=stack.final_norm)


@op
def layer_kv(states: Array, lengths: Array, weights: BlockWeights, *, layer: Layer) -> EncoderKV:
    """Return the keys and values that one decoder layer makes of an encoder's output."""
    assert layer.cross is not None
    assert "cross" in weights
    return EncoderKV(*cross_keys(states, weights["cross"], settings=layer.cross), lengths)


@op
def encoder_kv(states: Array, lengths: Array, params: ModelWeights, *, config: Config) -> list[EncoderKV]:
    """Return the keys and values [B, G, S, K] of an encoder's output, for each layer of the decoder that
    reads the encoder."""
    assert "decoder" in params
    layers = zip(config.layers, params["decoder"]["layers"], strict=True)
    return [layer_kv(states, lengths, weights, layer=layer) for layer, weights in layers]


@op
def predict(states: Array, lengths: Array, params: ModelWeights, *, config: Config) -> Array:
    """Return what the model's head computes from an encoder's output [B, T, D].

    MaskedLM: logits [B, T, N]. Tag: [B, T, labels]. QuestionAnswering: [B, T, 2], start and end. Classify:
    [B, labels], for texts with these `pooled_lengths`. Pool: [B, D], or the width of its last projection.
    Values at padding are unspecified.
    """
    return predictions(states, lengths, params.get("head", {}), params["embedding"], head=config.head)
