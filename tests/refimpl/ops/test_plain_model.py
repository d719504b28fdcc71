"""The specification's models against one that is told plainly: any Config, also what no family has."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from helpers import config_strategies as drawn_configs
from helpers import plain_model, tiny_models
from helpers.tolerances import equal
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from tfm.refimpl.config import (
    Classify,
    Decoder,
    Embedding,
    Encoder,
    EncoderDecoder,
    HeadNorm,
    Layer,
    MoE,
    Pool,
    Pooling,
    QueryScale,
    RMSNorm,
    Rope,
)
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.ops.moe import moe

UNSHRUNK = (Phase.explicit, Phase.generate)  # a model shrinks for minutes, and hardly
seeds = st.integers(0, 2**32 - 1)
LARGEST_ERROR = 1e-8  # relative to the largest number: norms of tiny vectors and soft caps amplify rounding


def unscaled(value: Any) -> Any:
    """The Config with rotations that aren't scaled: scalings are held to transformers' own."""
    if isinstance(value, tuple):
        return tuple(map(unscaled, value))
    if not is_dataclass(value):
        return value
    changed = {f.name: unscaled(getattr(value, f.name)) for f in fields(value)}
    return replace(value, **changed | ({"scaling": None} if isinstance(value, Rope) else {}))


@st.composite
def decoders(draw: st.DrawFn) -> Decoder:
    """A decoder with a layer of each kind of mixer."""
    width, inner = draw(st.integers(5, 8)), draw(drawn_configs.projections)
    embedding = Embedding(draw(st.integers(9, 12)), width, draw(drawn_configs.scales), projection=inner)
    stack = draw(drawn_configs.stacks(width=drawn_configs.entry(embedding), decodes=width))
    layers = [
        Layer(draw(mixer), draw(drawn_configs.mlps), scale=draw(drawn_configs.shares))
        for mixer in (
            drawn_configs.linear_attentions, drawn_configs.lstms, drawn_configs.convolutions,
            drawn_configs.gated_deltas, drawn_configs.bounded_deltas, drawn_configs.lightnings,
            drawn_configs.mamba2s, drawn_configs.mambas, drawn_configs.linear_units, drawn_configs.latents,
            drawn_configs.indexed, drawn_configs.unrotated, drawn_configs.attentions(None, 2),
            drawn_configs.attentions(None, 2), drawn_configs.shared_blocks,
            drawn_configs.shifts(width), drawn_configs.shifts(width), drawn_configs.indexed_blocks,
        )
    ]  # fmt: skip
    stack = draw(drawn_configs.multiplied(replace(stack, layers=(*stack.layers, *layers))))
    head = draw(drawn_configs.lm_heads(embedding))
    decoder = draw(drawn_configs.sharing(Decoder(embedding, stack, head, drawn_configs.CONTEXT)))
    if draw(st.booleans()):
        decoder = replace(decoder, stack=drawn_configs.postponed(decoder.stack))
    codes = "int4" if decoder.embedding.width % 2 else "int8"
    return unscaled(decoder).with_kv(draw(st.sampled_from(("float", codes))))


def rotated_before_norms() -> Decoder:
    """A decoder whose second layer has queries alone, which are rotated and then normalized."""
    base = tiny_models.llama(window=3, bias=True)
    norm, scale = HeadNorm(RMSNorm(1e-2), "each", rotated=True), QueryScale(0.5, 3)
    first = replace(base.layers[0].attention, qk_norm=norm, query_scale=scale, clip=0.5)
    attentions = first, replace(first, heads=4, kv_layer=0)
    layers = tuple(replace(base.layers[0], attention=attention) for attention in attentions)
    return replace(base, stack=replace(base.stack, layers=layers))


@st.composite
def encoders(draw: st.DrawFn) -> list[Encoder | EncoderDecoder]:
    """An encoder, or a pair that reads, with several heads, and with attention that is told there."""
    config = unscaled(draw(drawn_configs.encoders()))
    stack = draw(drawn_configs.stacks(width=drawn_configs.entry(config.embedding), reads=True))
    latent = Layer(draw(drawn_configs.latents | drawn_configs.unrotated), draw(drawn_configs.mlps))
    stack = unscaled(replace(stack, layers=(*stack.layers, latent)))
    name = "stack" if isinstance(config, Encoder) else "encoder"
    heads = [draw(drawn_configs.fitting(config.embedding)) for _ in range(5)]
    plain = replace(config, embedding=replace(config.embedding, per_layer=None), **{name: stack})
    told = plain if isinstance(plain, EncoderDecoder) else draw(drawn_configs.vectors(plain))
    return [replace(told, head=head) for head in heads]


def drawn(config: Any, seed: int, *lengths: int) -> tuple[NumpyEngine, list[np.ndarray]]:
    """The specification's engine with random weights, and texts of these lengths.

    Scales of cached keys and values are so small that some numbers have no code near them.
    """
    rng = np.random.default_rng(seed)
    weights = tiny_models.weights(config, seed, np.float64)
    for layer in weights.get("decoder", {}).get("layers", ()):
        for name in {"k_scale", "v_scale"} & set(layer.get("attn", ())):
            layer["attn"][name] /= 8
    engine = NumpyEngine(config, weights)
    return engine, [rng.integers(0, config.embedding.vocabulary, n) for n in lengths]


def padded(texts: list[np.ndarray]) -> np.ndarray:
    rows = np.zeros((len(texts), max(map(len, texts))), np.int64)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    return rows


def stepped(engine: NumpyEngine, cache: Any, texts: list[np.ndarray], first: list[int]) -> list[np.ndarray]:
    """The logits of all tokens, a prompt of `first` tokens in one step and each later one by itself.

    What a new cache holds is random: nothing may read it.
    """
    for kind, layer in zip(cache.kinds, cache.layers, strict=True):
        for array in layer[: len(kind.arrays)]:
            array[:] = np.random.default_rng(0).standard_normal(array.shape)
    heads = [text[:n] for text, n in zip(texts, first, strict=True)]
    at = np.broadcast_to(np.arange(max(first)), (len(texts), max(first)))
    results, cache = engine.step(padded(heads), cache, np.array(first), at=at)
    rows = [list(result[:n]) for result, n in zip(results, first, strict=True)]
    for i in range(len(texts[0]) - first[0]):
        step = np.array([[text[n + i]] for text, n in zip(texts, first, strict=True)])
        results, cache = engine.step(step, cache)
        for row, result in zip(rows, results, strict=True):
            row.append(result[0])
    return [np.array(row) for row in rows]


@settings(max_examples=settings.default.max_examples // 3, phases=UNSHRUNK)
@given(decoders(), seeds)
@example(rotated_before_norms(), 0)
def test_decoders(config: Decoder, seed: int):
    """A prompt, padded in one row, and steps from its cache."""
    engine, texts = drawn(config, seed, 7, 5)
    for text, got in zip(texts, stepped(engine, engine.start(2), texts, [5, 3]), strict=True):
        equal(got, plain_model.decoded(config, engine.params, text), LARGEST_ERROR)


@settings(max_examples=settings.default.max_examples // 2, phases=UNSHRUNK)
@given(drawn_configs.pairs().map(unscaled), seeds)
def test_encoder_decoders(config: Any, seed: int):
    engine, texts = drawn(config, seed, 6, 4, 5, 3)
    cache = engine.start(2, padded(texts[2:]), np.array([5, 3]))
    for text, other, got in zip(texts[:2], texts[2:], stepped(engine, cache, texts[:2], [4, 2]), strict=True):
        equal(got, plain_model.decoded(config, engine.params, text, other), LARGEST_ERROR)


@settings(max_examples=settings.default.max_examples // 2, phases=UNSHRUNK)
@given(encoders(), seeds)
def test_encoders(configs: list[Any], seed: int):
    """The vectors and what each head makes of them."""
    lengths, count = np.array([6, 4]), configs[0].embedding.token_types
    types = None if count is None else np.random.default_rng(seed).integers(0, count, (2, 6))
    for config in configs:
        engine, texts = drawn(config, seed, 6, 4)
        given_ = padded(texts), lengths, types
        vectors, results = engine.encode(*given_), engine.predict(*given_)
        for i, text in enumerate(texts):
            own = engine.params, text, None if types is None else types[i, : len(text)]
            equal(vectors[i, : len(text)], np.array(plain_model.encoded(config, *own)), LARGEST_ERROR)
            got = results[i] if isinstance(config.head, Pool | Classify) else results[i, : len(text)]
            equal(got, plain_model.predicted(config, *own), LARGEST_ERROR)


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_what_stands_behind_the_last_end_is_not_pooled(pooling: Pooling):
    """A reader that begins with each text's last token; one text has ends, the other none."""
    config = replace(tiny_models.reading_decoder(), head=Classify(3, pooling, end=2))
    config = replace(config, decoder=replace(config.decoder, start=None))
    engine, _ = drawn(config, 0)
    texts = [np.array([5, 2, 7, 2, 9, 11]), np.array([5, 7, 9, 11])]
    results = engine.predict(padded(texts), np.array([6, 4]))
    for text, got in zip(texts, results, strict=True):
        equal(got, plain_model.predicted(config, engine.params, text), LARGEST_ERROR)


@settings(phases=UNSHRUNK)
@given(drawn_configs.mixtures(), seeds, st.integers(20, 150))
def test_mixtures_with_a_capacity(mixture: MoE, seed: int, capacity: int):
    """A row of tokens, of which an expert drops those that it has no room for; no Config asks for it."""
    decoder = tiny_models.llama(width=7, layers=1)
    layer = replace(decoder.layers[0], mlp=mixture)
    decoder = replace(decoder, stack=replace(decoder.stack, layers=(layer,)))
    leaves = tiny_models.weights(decoder, seed, np.float64)["decoder"]["layers"][0]["mlp"]
    xs = np.random.default_rng(seed).standard_normal((2, 4, 7))
    flat = list(xs.reshape(8, 7))
    choices = [plain_model.routed(x, leaves, mixture) for x in flat]
    kept = plain_model.with_room(choices, mixture, capacity)
    expected = [sum(plain_model.mixture(x, leaves, mixture, k)) for x, k in zip(flat, kept, strict=True)]
    got = moe(xs, leaves, settings=mixture, capacity=capacity)
    equal(got, np.reshape(expected, xs.shape), LARGEST_ERROR)
