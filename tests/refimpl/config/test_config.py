"""Valid and invalid Configs, and their JSON form."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from helpers.config_strategies import configs, encoders, pairs
from helpers.refused import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.refimpl.components import from_json, mixers
from tfm.refimpl.config import (
    CTC,
    LM,
    AdaptiveSoftmax,
    Affine,
    Alibi,
    AltUp,
    Attention,
    Beside,
    BigBirdBlocks,
    Classify,
    Config,
    Convolution,
    ConvPositions,
    ConvStem,
    DecoderReader,
    Dense,
    Distances,
    DynamicNTK,
    Embedding,
    EmbeddingProjection,
    Encoder,
    ExpertGroups,
    FirstToken,
    Gated,
    HeadNorm,
    Indexer,
    Laurel,
    Layer,
    LayerNorm,
    Learned,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    MaskedLM,
    MoE,
    MoonshineStem,
    NeighbourConv,
    NoMlp,
    PerLayerEmbedding,
    PerLayerInput,
    Plain,
    Pool,
    ProportionalScaling,
    QueryScale,
    QuestionAnswering,
    QuestionTokens,
    RelativeBias,
    RMSNorm,
    Rope,
    SharedIndexer,
    Sinusoidal,
    SparseMixer,
    Stack,
    SwiGLUOAI,
    Tag,
    TokenDropout,
    WaveStem,
    Window,
    Yarn,
    to_json,
)
from tfm.refimpl.config.norms import Norms
from tfm.refimpl.config.record import Record, kinds
from tfm.refimpl.errors import ConfigError
from tfm.refimpl.ops.disentangled import DisentangledAttention
from tfm.refimpl.ops.gated_delta import GatedDelta
from tfm.refimpl.ops.latent_attention import LatentAttention
from tfm.refimpl.ops.linear_attention import LinearAttention
from tfm.refimpl.ops.longformer import LongformerAttention
from tfm.refimpl.ops.longt5 import LongT5Attention
from tfm.refimpl.ops.lstm import LSTM
from tfm.refimpl.ops.mamba import Mamba
from tfm.refimpl.ops.mamba2 import Mamba2
from tfm.refimpl.ops.position_tables import position_tables
from tfm.refimpl.ops.short_conv import ShortConv
from tfm.refimpl.ops.xlnet import XLNetAttention
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import flatten, unflatten

any_config = st.builds(
    lambda config, kv: config.with_kv(kv),
    st.one_of(configs(), encoders(), pairs()),
    st.sampled_from(("float", "int8", "int4")),
)


@given(any_config)
def test_json_and_back(config: Config):
    """Through text: nothing is lost and types stay."""
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@given(any_config)
def test_every_leaf_has_a_name_of_its_own(config: Config):
    """Names and shapes are the same after a tree was made and flattened again."""
    shapes = parameter_shapes(config)
    tree = unflatten({name: name for name in shapes})
    assert sorted(name for name, _ in flatten(tree)) == sorted(shapes)
    assert all(name == leaf for name, leaf in flatten(tree))


def test_an_older_config_is_still_read():
    """JSON of older bundles lacks later fields."""
    later = {"positions", "first_norm", "cross", "token_types", "bias", "scale", "kv"}

    def old(value: Any) -> Any:
        if isinstance(value, dict):
            keep = {"Embedding": {"scale"}, "Attention": {"scale"}, "Gated": {"bias"}}.get(
                value["type"], set()
            )
            return {k: old(v) for k, v in value.items() if k not in later - keep}
        return [old(v) for v in value] if isinstance(value, list) else value

    config = tiny_models.llama()
    values = old(to_json(config))
    assert "positions" not in values["stack"]
    assert from_json(values) == config


def layer(config: Config, which: str = "stack", **changed: Any) -> Config:
    """The model with its first layer changed."""
    stack = getattr(config, which)
    layers = (replace(stack.layers[0], **changed), *stack.layers[1:])
    return replace(config, **{which: replace(stack, layers=layers)})


def attention(config: Config, which: str = "stack", **changed: Any) -> Config:
    """The model with its first attention changed."""
    first = getattr(config, which).layers[0].attention
    return layer(config, which, attention=replace(first, **changed))


def stack(config: Config, which: str = "stack", **changed: Any) -> Config:
    return replace(config, **{which: replace(getattr(config, which), **changed)})


def heard(**changed: Any) -> Config:
    return stack(tiny_models.spelling(), **changed)


def writes(**changed: Any) -> Config:
    """A model that writes what it hears in samples, with another encoder."""
    config = tiny_models.writing()
    return replace(config, encoder=replace(config.encoder, **changed))


def wave(*convolutions: Convolution) -> WaveStem:
    return WaveStem(convolutions, "each", "gelu")


def embedding(config: Config, **changed: Any) -> Config:
    return replace(config, embedding=replace(config.embedding, **changed))


def vectors(config: Config, *stacks: str) -> Config:
    """The model with per-layer inputs in these stacks."""
    own, norm = PerLayerInput(16, "silu"), RMSNorm(1e-5)
    of = {which: getattr(config, which) for which in stacks}
    changed = {
        which: replace(stack, layers=tuple(replace(one, per_layer=own) for one in stack.layers))
        for which, stack in of.items()
    }
    return replace(
        config, embedding=replace(config.embedding, per_layer=PerLayerEmbedding(9, norm)), **changed
    )


def scaled(scaling: Any) -> Any:
    return lambda: attention(tiny_models.llama(), position=Rope(1e4, 16, scaling=scaling))


def mixed(**changed: Any) -> Any:
    return lambda: layer(LLAMA, mlp=replace(MoE(4, 2, 9, "silu", shared=8), **changed))


def adaptive(cutoffs: tuple[int, ...] = (9,), divisor: float = 4.0, tied: bool = False, **more: Any) -> Any:
    return lambda: replace(LLAMA, head=LM(tied, adaptive=AdaptiveSoftmax(cutoffs, divisor), **more))


def read_twice(reader: DecoderReader) -> Config:
    """A text that the decoder reads again, to say one of three things of it."""
    return replace(PAIR, decoder=reader, head=Classify(3, "last"))


LLAMA, ENCODER, PAIR = tiny_models.llama(), tiny_models.encoder(), tiny_models.encoder_decoder()
SHARED, MERGING = tiny_models.shared_kv(), tiny_models.merging()


def shares(at: int, **changed: Any) -> Callable[[], Config]:
    """The decoder that shares keys and values, with one layer's attention changed."""
    layers = list(SHARED.layers)
    layers[at] = replace(layers[at], attention=replace(layers[at].attention, **changed))
    return lambda: stack(SHARED, layers=tuple(layers))


def layered(position: Any, kv_layer: int | None = None) -> Layer:
    """A layer with this position, which may read another's keys and values."""
    return replace(
        LLAMA.layers[0], attention=replace(LLAMA.layers[0].attention, position=position, kv_layer=kv_layer)
    )


CROSS = Attention(2, 2, 8)
assert isinstance(PAIR.decoder, Stack)
LAST = DecoderReader(replace(PAIR.decoder, causal=True), 3)
HUGE = 2**40
INDEXED = tiny_models.indexed()


def latent(**changed: Any) -> LatentAttention:
    return replace(LatentAttention(2, 8, 4, 6, Rope(1e4, 4)), **changed)


def indexed(*, query_rank: int | None = 5, **changed: Any) -> LatentAttention:
    return latent(query_rank=query_rank, indexer=replace(Indexer(2, 6, 3), **changed))


def distant(**changed: Any) -> Any:
    """ENCODER with disentangled attention in its layers, changed in the last one."""
    first = DisentangledAttention(2, 8, Distances(4))
    layers = (replace(ENCODER.stack.layers[0], attention=a) for a in (first, replace(first, **changed)))
    return stack(ENCODER, layers=tuple(layers))


def windowed(first: Any = None, **changed: Any) -> Any:
    """ENCODER with Longformer's attention in its layers, changed in the last one."""
    a = LongformerAttention(2, 8, 3, first)
    layers = (replace(ENCODER.stack.layers[0], attention=a) for a in (a, replace(a, **changed)))
    return stack(ENCODER, layers=tuple(layers))


def summarized(**changed: Any) -> Any:
    """ENCODER with LongT5's attention in its layers, changed in the last one."""
    a = LongT5Attention(2, 8, 3, RelativeBias(8, 20), 2)
    layers = (replace(ENCODER.stack.layers[0], attention=a) for a in (a, replace(a, **changed)))
    return stack(ENCODER, layers=tuple(layers))


def relative(width: int = 8, types: int | None = 2, **changed: Any) -> Any:
    """ENCODER with XLNet's attention in its layers."""
    a = replace(XLNetAttention(2, 4), **changed)
    layers = tuple(replace(layer, attention=a) for layer in ENCODER.stack.layers)
    return replace(stack(ENCODER, layers=layers), embedding=Embedding(9, width, token_types=types))


WRONG: list[tuple[Any, str]] = [
    (lambda: replace(LLAMA, context=0), "context must be 1 to 16777216, got 0"),
    (lambda: replace(LLAMA, embedding=Embedding(HUGE, 8)), "vocabulary must be 1 to"),
    (lambda: replace(LLAMA, embedding=Embedding(8, HUGE)), "width must be 1 to"),
    (lambda: replace(ENCODER, embedding=Embedding(97, 48, token_types=0)), "token types must be 1 to"),
    (
        lambda: replace(ENCODER, head=LM(True)),
        "a decoder's head must be LM, and an encoder's must be another one, got LM",
    ),
    (
        lambda: replace(ENCODER, head=QuestionAnswering(mlp=Plain(8, "gelu", pre=LayerNorm(1e-5)))),
        "the head's mlp may have only the norm after it",
    ),
    (
        lambda: replace(ENCODER, head=QuestionAnswering(mlp=Plain(0, "gelu"))),
        "width of the head's mlp must be 1 to",
    ),
    (
        lambda: replace(LLAMA, head=QuestionAnswering()),
        "an encoder's must be another one, got QuestionAnswering",
    ),
    (lambda: replace(ENCODER, head=Tag(0)), "labels must be 1 to 1048576, got 0"),
    (lambda: stack(LLAMA, layers=()), "decoder: number of layers must be 1 to 1024, got 0"),
    (lambda: stack(ENCODER, layers=()), "encoder: number of layers must be 1 to"),
    (lambda: stack(LLAMA, positions=Learned(127)), "decoder: number of learned positions must be 128 to"),
    (
        lambda: stack(LLAMA, norm_before_positions=True, first_norm=LayerNorm(1e-5)),
        "decoder: a norm before the positions needs a first norm and added positions",
    ),
    (
        lambda: stack(LLAMA, norm_before_positions=True, positions=Learned(128)),
        "decoder: a norm before the positions needs a first norm and added positions",
    ),
    (lambda: stack(LLAMA, positions=Learned(128, -1)), "offset of the learned positions must be 0 to"),
    (
        lambda: replace(stack(LLAMA, positions=Sinusoidal()), embedding=Embedding(97, 47)),
        "sinusoidal positions need an even width, got 47",
    ),
    (lambda: attention(LLAMA, heads=7), "decoder layer 0: heads must be a multiple of kv_heads, got 7 and 2"),
    (lambda: attention(LLAMA, kv_heads=True), "layer 0: kv_heads must be 1 to 4096, got True"),
    (lambda: attention(LLAMA, mask=Window(0)), "layer 0: window must be"),
    (mixed(experts=0), "layer 0: experts must be 1 to 65536, got 0"),
    (mixed(top=5), "layer 0: chosen experts must be 1 to 4, got 5"),
    (mixed(top=0), "layer 0: chosen experts must be 1 to 4, got 0"),
    (mixed(shared=None, shared_gate=True), "a shared expert's gate needs a shared expert, got none"),
    (
        lambda: stack(LLAMA, layers=(replace(LLAMA.layers[0], mlp=MoE(2**15, 1, 9, "silu")),) * 3),
        "decoder: experts of all layers must be 0 to 65536, got 98304",
    ),
    (
        lambda: attention(LLAMA, position=None, qk_norm=HeadNorm(RMSNorm(1e-6), rotated=True)),
        "layer 0: a norm of queries and keys after the rotation needs rotary positions, got None",
    ),
    (lambda: attention(LLAMA, position=Rope(1e4, 18)), "layer 0: rotary dims must be 1 to 16, got 18"),
    (lambda: attention(LLAMA, position=Rope(1e4, 7)), "layer 0: rotary dims must be even, got 7"),
    (lambda: attention(LLAMA, position=Rope(float("nan"), 8)), "position.theta must be positive"),
    (lambda: attention(LLAMA, position=RelativeBias(3, 9)), "buckets of the relative bias must be 4 to"),
    (lambda: attention(LLAMA, position=RelativeBias(8, 4)), "max_distance of the relative bias must be 5 to"),
    (scaled(LinearScaling(0.0)), "decoder.layers[0].attention.position.scaling.factor must be positive"),
    (scaled(LongRope((1.0,) * 7, (1.0,) * 8, 8)), "needs 8 divisors, got"),
    (scaled(LongRope((1.0,) * 8, (1.0, 0.0) * 4, 8)), "position.scaling.long[1] must be positive"),
    (scaled(ProportionalScaling(0)), "layer 0: rotated pairs must be 1 to 8, got 0"),
    (scaled(ProportionalScaling(9)), "layer 0: rotated pairs must be 1 to 8, got 9"),
    (
        mixed(score=SparseMixer()),
        "a sparse mixer can't have renormalize, scale, choice_bias, groups or sum_eps",
    ),
    (
        mixed(latent=3, own_norms=RMSNorm(1e-5)),
        "layer 0: experts with norms of their own must have no latent",
    ),
    (mixed(gated=False, activation=SwiGLUOAI()), "layer 0: a clamped SwiGLU needs gated experts"),
    (mixed(shared=None, shared_bias=True), "needs a shared expert or a latent, got neither"),
    (mixed(shared=None, average=True), "average needs a shared expert, got none"),
    (mixed(shared=None, shared_activation="relu"), "a shared expert's activation needs a shared expert"),
    (mixed(identities=-1), "identities must be 0 to 65536, got -1"),
    (mixed(identities=2, weighs="input"), "identities can't have groups, latent, norms"),
    (mixed(identities=2, top=7), "chosen experts must be 1 to 6, got 7"),
    (mixed(late=True, average=True), "late experts need a shared expert without a gate"),
    (mixed(late=True, shared=None), "late experts need a shared expert without a gate"),
    (mixed(late=True, shared_gate=True), "late experts need a shared expert without a gate"),
    (
        lambda: replace(LLAMA, stack=replace(LLAMA.stack, layers=mixed(late=True)().layers[:1])),
        "decoder: late experts need a decoder, a layer after theirs",
    ),
    (
        mixed(own_norms=RMSNorm(1e-5), pre=RMSNorm(1e-5)),
        "layer 0: a mixture with norms of its own must have no norm before it, and must not be parallel",
    ),
    (
        lambda: layer(
            LLAMA, parallel=True, mlp=replace(MoE(4, 2, 9, "silu", shared=8), own_norms=RMSNorm(1e-5))
        ),
        "layer 0: a mixture with norms of its own must have no norm before it, and must not be parallel",
    ),
    (lambda: attention(LLAMA, kv_layer=0), "layer 0: kv_layer must be an earlier layer of the stack, got 0"),
    (shares(2, kv_layer=-1), "layer 2: kv_layer must be an earlier layer of the stack, got -1"),
    (shares(3, kv_layer=2), "kv_layer must name a layer with its own keys and values, but layer 2 has none"),
    (
        shares(2, kv_layer=1),
        "layer 2: kv_layer must name a layer with the same kv_heads, head_size, position, mask and kv",
    ),
    (
        shares(2, value_norm=RMSNorm(1e-5)),
        "layer 2: a layer with kv_layer makes no values, so it can't have a norm",
    ),
    (
        shares(2, keys_as_values=True),
        "layer 2: a layer with kv_layer makes no values, so it can't have a norm",
    ),
    (
        lambda: stack(LLAMA, layers=(layered(Alibi()), layered(Alibi(), 0))),
        "layer 1: kv_layer needs rotary positions or none, got Alibi",
    ),
    (
        lambda: Encoder(SHARED.embedding, SHARED.stack, Pool("last"), 128),
        "encoder layer 2: only a decoder's layer can read the keys and values of another layer",
    ),
    (
        lambda: Encoder(
            replace(SHARED.embedding, token_types=2), replace(SHARED.stack, causal=True), Pool("last"), 128
        ),
        "token types",
    ),
    (
        lambda: replace(SHARED, embedding=replace(SHARED.embedding, per_layer=None)),
        "either all layers have per-layer inputs of one width and the embedding has them too, or no layer",
    ),
    (
        lambda: replace(LLAMA, embedding=replace(LLAMA.embedding, per_layer=SHARED.embedding.per_layer)),
        "all layers have per-layer inputs of one width",
    ),
    (
        lambda: stack(SHARED, layers=(replace(SHARED.layers[0], per_layer=None), *SHARED.layers[1:])),
        "all layers have per-layer inputs of one width",
    ),
    (
        lambda: stack(SHARED, layers=(replace(SHARED.layers[0], per_layer=PerLayerInput(0, "silu")),)),
        "layer 0: width of the per-layer input must be 1 to",
    ),
    (
        lambda: replace(
            SHARED, embedding=replace(SHARED.embedding, per_layer=PerLayerEmbedding(0, RMSNorm(1e-5)))
        ),
        "rows of the per-layer table must be 1 to",
    ),
    (
        lambda: layer(ENCODER, laurel=Laurel(3, RMSNorm(1e-5))),
        "encoder layer 0: a learned residual must be in a decoder",
    ),
    (lambda: layer(LLAMA, laurel=Laurel(0, RMSNorm(1e-5))), "rank of the learned residual must be 1 to"),
    (
        lambda: layer(ENCODER, altup=AltUp(3, 0, RMSNorm(1e-5))),
        "encoder layer 0: alternating updates must be in a decoder",
    ),
    (lambda: layer(LLAMA, altup=AltUp(65, 0, RMSNorm(1e-5))), "layer 0: streams must be 2 to 64, got 65"),
    (lambda: layer(LLAMA, altup=AltUp(3, 3, RMSNorm(1e-5))), "layer 0: active stream must be 0 to 2, got 3"),
    (
        lambda: layer(SHARED, altup=AltUp(3, 0, RMSNorm(1e-5))),
        "alternating updates need the same number of streams in all layers, or none",
    ),
    (lambda: layer(LLAMA, mlp=Gated(9, "silu", sparsity=1.0)), "sparsity must be below 1, got 1.0"),
    (lambda: layer(LLAMA, cross=CROSS), "layer 0: cross-attention needs a decoder with an encoder"),
    (lambda: layer(PAIR, "encoder", cross=CROSS), "encoder layer 0: cross-attention needs a decoder"),
    (
        lambda: layer(PAIR, "decoder", cross=None),
        "cross-attention must be there, as the model has an encoder",
    ),
    (
        lambda: layer(PAIR, "decoder", parallel=True),
        "cross-attention comes between the other sublayers, so they can't be parallel",
    ),
    (
        lambda: layer(PAIR, "decoder", cross=replace(CROSS, heads=3)),
        "layer 0: cross-attention: heads must be a multiple",
    ),
    (
        lambda: attention(PAIR, "decoder", position=RelativeBias(8, 9)),
        "decoder: all layers must share one table of relative biases, got 2 kinds",
    ),
    (lambda: layer(LLAMA, parallel=True, residual="norm"), "can't be combined with parallel sublayers"),
    (
        lambda: attention(LLAMA, qk_norm=HeadNorm(LayerNorm(1e-5))),
        "layer 0: a norm of queries and keys must have a weight and no bias, got LayerNorm(eps=1e-05, bias",
    ),
    (lambda: attention(LLAMA, qk_norm=HeadNorm(LayerNorm(1e-5, False, False))), "must have a weight and no"),
    (lambda: attention(LLAMA, qk_norm=HeadNorm(Affine())), "must have a weight and no bias, got Affine()"),
    (lambda: embedding(LLAMA, token_types=2), "only an encoder can have token types, got 2 for a decoder"),
    (
        lambda: embedding(LLAMA, projection=EmbeddingProjection(0)),
        "width of the tables must be 1 to 1048576, got 0",
    ),
    (
        lambda: embedding(PAIR, projection=EmbeddingProjection(8)),
        "a model with two stacks can't have a projection of the embedding",
    ),
    (
        lambda: embedding(ENCODER, projection=EmbeddingProjection(8)),
        "a tied output must have the embedding's width (8), got 48",
    ),
    (
        lambda: replace(ENCODER, head=MaskedLM(True, Dense(None, width=9))),
        "a tied output must have the embedding's width (48), got 9",
    ),
    (lambda: replace(ENCODER, head=Tag(2, Dense(None, width=0))), "head's dense map must be 1 to 1048576"),
    (
        lambda: embedding(stack(LLAMA, positions=Sinusoidal()), projection=EmbeddingProjection(7, late=True)),
        "decoder: sinusoidal positions need an even width, got 7",
    ),
    (lambda: attention(ENCODER, kv="int8"), "only a decoder caches keys and values, got kv 'int8'"),
    (
        lambda: attention(LLAMA, value_size=LLAMA.layers[0].attention.head_size + 1),
        "at most as wide as a head",
    ),
    (
        lambda: attention(LLAMA, out_norm=RMSNorm(1e-5), output_gate=True),
        "the heads' output can have a gate or out_norm, got both",
    ),
    (
        lambda: attention(LLAMA, out_norm=RMSNorm(1e-5), head_gate=True),
        "the heads' output can have a gate or out_norm, got both",
    ),
    (
        lambda: attention(PAIR, "decoder", heads=12),
        "all layers must share one table of relative biases, got 2 kinds",
    ),
    (lambda: layer(LLAMA, attention=LinearAttention(3, 2, 8)), "heads must be a multiple of kv_heads, got 3"),
    (lambda: layer(MERGING, "decoder", cross=CROSS), "merged cross-attention must have the attention's keys"),
    (lambda: MERGING.with_kv("int8"), "merged attention must have no added positions"),
    (
        lambda: attention(MERGING, "decoder", position=Alibi()),
        "merged attention must have no added positions",
    ),
    (lambda: layer(LLAMA, merged=True), "merged cross-attention must have the attention's keys, Attention("),
    (
        lambda: layer(LLAMA, merged=True, attention=ShortConv(8)),
        "attention merged with cross-attention must be a decoder's",
    ),
    (lambda: attention(LLAMA, mask=Window(2, 3)), "later positions of a window must be in an encoder"),
    (
        lambda: embedding(MERGING, apart=97),
        "the token with a vector of its own must be 0 to 96, got 97",
    ),
    (adaptive(tied=True), "an adaptive softmax must have an output of its own, without softcap, scale and"),
    (adaptive(softcap=2.0), "must have an output of its own, without softcap, scale and"),
    (adaptive(dense=Dense(None)), "must have an output of its own, without softcap, scale and dense map"),
    (
        lambda: replace(LLAMA, head=LM(True, dense=Dense(None, width=9))),
        "a tied output must have the embedding's width (48), got 9",
    ),
    (adaptive(cutoffs=()), "clusters of the adaptive softmax must be 1 to 32, got 0"),
    (adaptive(cutoffs=(0, 9)), "cutoffs of the adaptive softmax, in ascending order, must be 1 to 96, got 0"),
    (
        adaptive(cutoffs=(9, 9)),
        "cutoffs of the adaptive softmax, in ascending order, must be 10 to 96, got 9",
    ),
    (adaptive(cutoffs=(9, 97)), "in ascending order, must be 10 to 96, got 97"),
    (adaptive(cutoffs=(9, 20, 30)), "width of the last cluster must be 1 to 1048576, got 0"),
    (adaptive(divisor=49.0), "divisor of the adaptive softmax must be 1 to 48, got 49.0"),
    (adaptive(divisor=0.5), "divisor of the adaptive softmax must be 1 to 48, got 0.5"),
    (
        lambda: layer(LLAMA, mlp=MoE(6, 2, 8, "silu", groups=ExpertGroups(4, 1))),
        "layer 0: experts must be a multiple of their groups, got 6 and 4",
    ),
    (
        lambda: layer(LLAMA, mlp=MoE(6, 4, 8, "silu", groups=ExpertGroups(3, 1))),
        "chosen experts must be at most the experts of the chosen groups (2), got 4",
    ),
    (
        lambda: layer(LLAMA, mlp=MoE(6, 1, 8, "silu", groups=ExpertGroups(3, 4))),
        "chosen groups of experts must be 1 to 3, got 4",
    ),
    (
        lambda: layer(LLAMA, mlp=MoE(6, 1, 8, "silu", groups=ExpertGroups(6, 1))),
        "groups that are scored by their two best experts must have at least two, got 1",
    ),
    (
        lambda: layer(LLAMA, attention=ShortConv(8, 1)),
        "layer 0: length of the convolution must be 2 to 256, got 1",
    ),
    (lambda: layer(LLAMA, attention=latent(position=Rope(1e4, 3))), "rotary dims must be even, got 3"),
    (
        lambda: layer(LLAMA, attention=latent(query_scale=QueryScale(0.1, 0))),
        "original context of the scale of queries must be 1 to",
    ),
    (lambda: layer(LLAMA, attention=indexed(heads=0)), "heads of the indexer must be 1 to 4096, got 0"),
    (
        lambda: layer(LLAMA, attention=indexed(query_rank=None)),
        "an indexer needs query_rank, since it reads the latent of queries",
    ),
    (
        lambda: layer(LLAMA, attention=indexed(size=3)),
        "size of the indexer's heads must be 4 to 1048576, got 3",
    ),
    (
        lambda: layer(LLAMA, attention=latent(indexer=SharedIndexer(3))),
        "layer 0: a shared indexer needs an earlier layer with its own indexer",
    ),
    (
        lambda: stack(
            INDEXED,
            layers=(
                *INDEXED.layers[:2],
                replace(INDEXED.layers[2], attention=latent(indexer=SharedIndexer(3))),
            ),
        ),
        "layer 2: a shared indexer must have the shared layer's topk (6), got 3",
    ),
    (lambda: layer(ENCODER, attention=indexed()), "encoder layer 0: an indexer must be in a decoder"),
    (
        lambda: layer(ENCODER, attention=ShortConv(8)),
        "encoder layer 0: a short convolution must be in a decoder",
    ),
    (
        lambda: layer(LLAMA, attention=GatedDelta(3, 2, 8, 8)),
        "layer 0: heads must be a multiple of key_heads, got 3 and 2",
    ),
    (
        lambda: layer(LLAMA, attention=GatedDelta(2, 1, 8, 8, 1)),
        "layer 0: length of the convolution must be 2 to 256, got 1",
    ),
    (
        lambda: layer(LLAMA, attention=GatedDelta(2, 1, 8, 8, max_decay=2.0)),
        "max_decay is for decays of each channel",
    ),
    (lambda: layer(LLAMA, attention=latent(position=None)), "shared_size must be 1 to 1048576, got 0"),
    (lambda: layer(LLAMA, attention=latent(shared_size=4)), "shared_size is for attention without positions"),
    (
        lambda: layer(LLAMA, attention=replace(indexed(), position=None, shared_size=4)),
        "layer 0: an indexer needs attention with positions",
    ),
    (
        lambda: layer(ENCODER, attention=GatedDelta(2, 1, 8, 8)),
        "encoder layer 0: a gated delta network must be in a decoder",
    ),
    (
        lambda: layer(LLAMA, attention=Mamba2(3, 2, 8, 8)),
        "layer 0: heads must be a multiple of groups, got 3 and 2",
    ),
    (
        lambda: layer(LLAMA, attention=Mamba2(2, 1, 8, 8, 1)),
        "layer 0: length of the convolution must be 2 to 256, got 1",
    ),
    (
        lambda: layer(ENCODER, attention=Mamba2(2, 1, 8, 8)),
        "encoder layer 0: Mamba 2's layer must be in a decoder",
    ),
    (
        lambda: layer(ENCODER, beside=Beside(Mamba2(2, 1, 8, 8))),
        "encoder layer 0: a state space must be beside attention, in a decoder",
    ),
    (
        lambda: layer(LLAMA, attention=LSTM(8), beside=Beside(Mamba2(2, 1, 8, 8))),
        "layer 0: a state space must be beside attention, in a decoder",
    ),
    (
        lambda: layer(LLAMA, beside=Beside(Mamba2(2, 1, 8, 8, pre=RMSNorm(1e-5)))),
        "layer 0: a state space beside attention can't have its own norms",
    ),
    (
        lambda: layer(LLAMA, beside=Beside(Mamba2(3, 2, 8, 8))),
        "layer 0: beside attention: heads must be a multiple of groups, got 3 and 2",
    ),
    (
        lambda: layer(LLAMA, attention=Mamba2(2, 1, 8, 8, multipliers=(1.0, 2.0))),
        "layer 0: multipliers must be five or none, got 2",
    ),
    (
        lambda: layer(LLAMA, attention=Mamba(8, 8, 2, 1)),
        "layer 0: length of the convolution must be 2 to 256, got 1",
    ),
    (
        lambda: layer(ENCODER, attention=Mamba(8, 8, 2)),
        "encoder layer 0: Mamba's layer must be in a decoder",
    ),
    (lambda: layer(LLAMA, mlp=NoMlp(), parallel=True), "layer 0: parallel needs an mlp, got NoMlp"),
    (lambda: layer(ENCODER, attention=LSTM(8)), "encoder layer 0: an LSTM must be in a decoder"),
    (
        lambda: layer(PAIR, "encoder", attention=LinearAttention(2, 2, 4)),
        "linear attention must be in a deco",
    ),
    (lambda: attention(LLAMA, pre=RMSNorm(float("inf"))), "attention.pre.eps must be positive"),
    (lambda: attention(LLAMA, qk_norm=HeadNorm(RMSNorm(float("nan")))), "qk_norm.norm.eps must be positive"),
    (lambda: replace(LLAMA, head=LM(True, softcap=float("nan"))), "head.softcap must be positive"),
    (lambda: replace(LLAMA, head=LM(True, scale=1e39)), "head.scale must be positive, 2^-126"),
    (scaled(Yarn(2.0, 8, beta_fast=1e308)), "position.scaling.beta_fast must be positive, 2^-126"),
    (
        scaled(Llama3Scaling(2.0, 4.0, 3.0, 8)),
        "low_freq_factor must be at most high_freq_factor, got 4.0",
    ),
    (
        lambda: attention(LLAMA, position=Rope(1.0, 16, scaling=Yarn(2.0, 8))),
        "layer 0: yarn needs a rotary theta above 1, got 1.0",
    ),
    (
        lambda: replace(LLAMA, stack=LAST.stack),
        "a decoder is always causal, so its stack must not set causal",
    ),
    (lambda: read_twice(DecoderReader(PAIR.decoder, 3)), "a reader's stack must set causal"),
    (lambda: replace(read_twice(LAST), head=Classify(2, "last", end=97)), "the end token must be 0 to 96"),
    (lambda: read_twice(replace(LAST, start=97)), "the reader's start token must be 0 to 96, got 97"),
    (lambda: read_twice(replace(LAST, start=-1)), "the reader's start token must be 0 to 96, got -1"),
    (lambda: distant(distances=Distances(0)), "span of the distances must be 1 to"),
    (lambda: distant(distances=Distances(3, 9)), "the span of the distance table must be even, got 3"),
    (lambda: distant(distances=Distances(4, 3)), "log_until of the distances must be 4 to 16777216, got 3"),
    (
        lambda: distant(distances=Distances(6)),
        "encoder: all layers must share one table of distances, got 2 kinds",
    ),
    (
        lambda: distant(content_to_position=False, position_to_content=False),
        "disentangled attention must have at least one term with positions",
    ),
    (
        lambda: replace(distant(), stack=replace(distant().stack, causal=True)),
        "encoder layer 0: disentangled attention must be in an encoder that isn't causal",
    ),
    (
        lambda: layer(LLAMA, attention=DisentangledAttention(2, 8, Distances(4))),
        "decoder layer 0: disentangled attention must be in an encoder",
    ),
    (lambda: stack(LLAMA, stem=ConvStem(6)), "decoder: only an encoder that isn't causal can read sounds"),
    (lambda: stack(ENCODER, stem=ConvStem(6)), "an encoder of sound needs a decoder or a CTC head"),
    (lambda: replace(ENCODER, head=CTC()), "an encoder of sound needs a decoder or a CTC head"),
    (lambda: heard(stem=wave(Convolution(5, 0, 1))), "encoder: length of a convolution"),
    (lambda: heard(stem=wave()), "encoder: number of convolutions"),
    (lambda: heard(stem=wave(*[Convolution(5, 9, 9)] * 9)), "encoder: a vector must cover at most"),
    (lambda: heard(stem=wave(*[Convolution(5, 1, 256)] * 3)), "encoder: a vector must cover at most"),
    (
        lambda: heard(positions=Learned(32)),
        "encoder: a stack that reads samples can't have positions from a table",
    ),
    (
        lambda: writes(stem=MoonshineStem((Convolution(5, 3, 1),))),
        "encoder: the last convolution must be as wide as the model (48), got 5",
    ),
    (
        lambda: writes(positions=Learned(64)),
        "encoder: a stack that reads samples can't have positions from a table",
    ),
    (
        lambda: heard(positions=ConvPositions(3, 5, "gelu")),
        "groups of the positions' convolution must divide",
    ),
    (lambda: heard(positions=ConvPositions(3, 99, "gelu")), "groups of the positions' convolution must be"),
    (lambda: heard(causal=True), "encoder: only an encoder that isn't causal can read sounds"),
    (
        lambda: replace(heard(), embedding=Embedding(97, 48, token_types=2)),
        "encoder: a stack that reads sounds can't have token types",
    ),
    (lambda: embedding(LLAMA, projection=EmbeddingProjection(9, trigram=True)), "trigrams need an encoder"),
    (
        lambda: replace(tiny_models.narrow(), head=MaskedLM(False, further=3)),
        "further must be how much wider",
    ),
    (
        lambda: attention(tiny_models.narrow(), mlps=(Plain(7, "relu"),)),
        "encoder layer 0: an mlp of the bottleneck must have the norm after it alone",
    ),
    (lambda: attention(tiny_models.narrow(), mlps=()), "mlps of the bottleneck must be 1 to 32, got 0"),
    (
        lambda: embedding(heard(), token_dropout=TokenDropout(3)),
        "encoder: a stack that reads sounds can't have token types",
    ),
    (
        lambda: embedding(heard(), scale=8.0),
        "a model that reads only sounds has no token embeddings to scale, got 8.0",
    ),
    (lambda: vectors(heard(), "stack"), "encoder: a stack that reads sounds can't have token types"),
    (lambda: vectors(PAIR, "encoder", "decoder"), "per-layer inputs need a model with one stack"),
    (lambda: replace(heard(), head=CTC(tied=False)), "a model that reads sounds must have a tied output"),
    (
        lambda: stack(ENCODER, positions=ConvPositions(3, 2, "gelu")),
        "encoder: positions by a convolution need a stack that reads sounds",
    ),
    (
        lambda: layer(LLAMA, conv=NeighbourConv(1, "tanh", LayerNorm(1e-5))),
        "decoder layer 0: a convolution over neighbours must be in an encoder",
    ),
    (
        lambda: layer(ENCODER, conv=NeighbourConv(-1, "tanh", LayerNorm(1e-5))),
        "encoder layer 0: neighbours of the convolution must be 0 to 256, got -1",
    ),
    (
        lambda: windowed(global_tokens=FirstToken()),
        "encoder: all layers must have the same global tokens, got 2 kinds",
    ),
    (lambda: windowed(QuestionTokens(97)), "encoder: separator of the question must be 0 to 96, got 97"),
    (
        lambda: replace(windowed(), stack=replace(windowed().stack, causal=True)),
        "encoder layer 0: Longformer's attention must be in an encoder that isn't causal",
    ),
    (
        lambda: replace(PAIR, encoder_context=0),
        "the encoder's context must be 1 to 16777216, got 0",
    ),
    (
        lambda: replace(tiny_models.reading_decoder(), encoder_context=32),
        "a reader reads the encoder's text, so encoder_context must not be set",
    ),
    (
        lambda: replace(PAIR, encoder=replace(PAIR.encoder, positions=Learned(32)), encoder_context=33),
        "encoder: number of learned positions must be 33 to 16777216, got 32",
    ),
    (
        lambda: layer(LLAMA, attention=LongformerAttention(2, 8, 3)),
        "decoder layer 0: Longformer's attention must be in an encoder",
    ),
    (
        lambda: summarized(radius=4),
        "encoder: all layers must have one radius and one global_block_size, got 2 kinds",
    ),
    (
        lambda: summarized(global_block_size=None),
        "all layers must have one radius and one global_block_size, got 2 kinds",
    ),
    (lambda: summarized(heads=3), "encoder: all layers must share one table of relative biases, got 2 kinds"),
    (
        lambda: summarized(position=RelativeBias(8, 20, shared=False)),
        "encoder layer 1: all layers of LongT5's attention must share their biases",
    ),
    (
        lambda: replace(summarized(), stack=replace(summarized().stack, causal=True)),
        "encoder layer 0: LongT5's attention must be in an encoder that isn't causal",
    ),
    (
        lambda: layer(LLAMA, attention=LongT5Attention(2, 8, 3, RelativeBias(8, 20))),
        "decoder layer 0: LongT5's attention must be in an encoder",
    ),
    (lambda: relative(width=7), "encoder: sines and cosines of distances need an even width, got 7"),
    (lambda: relative(types=None), "encoder: layers with segments need token types in the embedding"),
    (
        lambda: layer(LLAMA, attention=XLNetAttention(2, 8)),
        "decoder layer 0: XLNet's attention must be in an encoder",
    ),
    (
        lambda: attention(LLAMA, mask=BigBirdBlocks(4, 1)),
        "layer 0: BigBird's blocks must be in an encoder that isn't causal",
    ),
    (
        lambda: attention(ENCODER, mask=BigBirdBlocks(4, 1), position=Alibi()),
        "layer 0: BigBird's attention must have no biases of scores and no sinks",
    ),
    (
        lambda: attention(ENCODER, mask=BigBirdBlocks(4, 1), sink_logits=True),
        "encoder layer 0: BigBird's attention must have no biases of scores and no sinks",
    ),
]


# Sizes that a part checks itself, mostly against others: rows of WRONG are about these.
OWN_CHECK = {
    "AdaptiveSoftmax.cutoffs", "AltUp.active", "AltUp.streams", "Attention.kv_layer", "Attention.value_size",
    "Classify.end", "ConvPositions.groups", "Decoder.context", "DecoderReader.start", "Dense.width",
    "Distances.log_until", "Distances.span", "Embedding.task_types", "Embedding.token_types",
    "Embedding.vocabulary", "Embedding.width", "EmbeddingProjection.width", "Encoder.context",
    "EncoderDecoder.context", "EncoderDecoder.encoder_context", "ExpertGroups.count", "ExpertGroups.top",
    "LatentAttention.shared_size", "Laurel.rank", "Learned.offset", "Learned.size", "MoE.identities",
    "MoE.top", "NeighbourConv.neighbours", "PerLayerEmbedding.rows", "PerLayerInput.width", "Pool.cuts",
    "ProportionalScaling.turned", "QuestionTokens.separator", "RelativeBias.max_distance", "Rope.dims",
    "SharedIndexer.topk", "Sinusoidal.offset",
}  # fmt: skip


def records() -> dict[str, type[Record]]:
    """All records of tfm by name; tests have others."""
    mixers()  # imports the modules of all
    return {kind.__name__: kind for kind in kinds(Record) if kind.__module__.startswith("tfm.")}


def test_every_size_has_bounds():
    free = {
        f"{name}.{one.name}"
        for name, kind in records().items()
        for one in fields(kind)
        if "int" in re.findall(r"\w+", str(one.type)) and "bound" not in one.metadata
    }
    assert free == OWN_CHECK


def out_of_bounds(value: Any) -> Iterator[tuple[str, str, float]]:
    """(class, field, a number that is refused) of each bounded size and each float of a Config in JSON."""
    if isinstance(value, list):
        for one in value:
            yield from out_of_bounds(one)
    elif isinstance(value, dict):
        for one in fields(records()[value["type"]]):
            if isinstance(value[one.name], float):
                yield value["type"], one.name, 0.0
            elif "bound" in one.metadata and value[one.name] is not None:
                yield value["type"], one.name, one.metadata["bound"][2] - 1
            else:
                yield from out_of_bounds(value[one.name])


def with_number(value: Any, kind: str, name: str, number: float) -> Any:
    """The JSON with this number in the field of all records of the class that state one there."""
    if isinstance(value, list):
        return [with_number(one, kind, name, number) for one in value]
    if not isinstance(value, dict):
        return value
    here = value["type"] == kind and value[name] is not None
    return {k: with_number(one, kind, name, number) for k, one in value.items()} | (
        {name: number} if here else {}
    )


@settings(max_examples=25)
@given(any_config)
def test_a_number_out_of_bounds_is_refused_wherever_it_is(config: Config):
    stated = to_json(config)
    for kind, name, number in dict.fromkeys(out_of_bounds(stated)):
        with pytest.raises(ConfigError, match=r"must be (positive|\d+ to)"):
            from_json(with_number(stated, kind, name, number))


# What cross-attention may differ in from attention with the same sizes.
OF_CROSS = {
    "heads",
    "kv_heads",
    "head_size",
    "qkv_bias",
    "out_bias",
    "scale",
    "softcap",
    *Norms.__annotations__,
}
NOT_OF_CROSS = {
    "position": Alibi(), "mask": Window(2), "qk_norm": HeadNorm(RMSNorm(1e-6)), "clip": 1.0,
    "query_scale": QueryScale(0.1, 8), "kv": "int8", "sink_logits": True, "output_gate": True,
    "value_norm": RMSNorm(1e-5), "keys_as_values": True, "kv_layer": 0, "head_gate": True,
    "out_norm": RMSNorm(1e-5), "softplus_gate": True, "value_scale": 0.5, "value_size": 3,
}  # fmt: skip


def test_cross_attention_is_plain():
    assert NOT_OF_CROSS.keys() == {one.name for one in fields(Attention)} - OF_CROSS
    for name, value in NOT_OF_CROSS.items():
        with pytest.raises(ConfigError, match="cross-attention must have no position, mask"):
            layer(PAIR, "decoder", cross=replace(CROSS, **{name: value}))


def test_the_smallest_and_largest_numbers_compute():
    """Numbers at the bounds give outputs, not Python errors."""
    for theta in (math.nextafter(1, 2), 2.0**126):
        for one in (2.0**-126, 2.0**126):
            yarn = Yarn(one, 8, one, one)
            for scaling in (None, LinearScaling(one), DynamicNTK(one, 8), yarn, Llama3Scaling(one, 1, 4, 8)):
                config = attention(LLAMA, position=Rope(theta, 16, scaling=scaling))
                position_tables(np.array([1]), config=config)


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[m for _, m in WRONG])
def test_refused(make: Any, message: str):
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": {"type": "Choose"}}, "config.head.type must be one of ['CTC', 'Classify', 'MaskedLM',"),
        ({"head": {"type": "Pool", "pooling": "median"}}, "config.head.pooling must be first or "),
        ({"head": {"type": "Pool", "pooling": "mean", "size": 3}}, "config.head.size is an unknown field"),
        ({"head": {"type": "Tag"}}, "config.head.labels is missing"),
        ({"head": {"type": "Tag", "labels": 2.0}}, "config.head.labels must be"),
        ({"stack": 3}, "config.stack must be"),
        ({"stack": None}, "config.stack must be"),
        ({"stack": {"type": "Stack", "layers": {}, "final_norm": None}}, "layers must be a list"),
        ({"type": "Config"}, "config.type must be one of ['Decoder', 'Encoder', 'EncoderDecoder'], got"),
    ],
)
def test_json_refused(change: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as error:
        from_json(to_json(ENCODER) | change)
    assert message in str(error.value)


def test_an_activation_may_be_absent():
    """A literal or None: both are read, another name isn't."""
    as_json = to_json(ENCODER)
    as_json["head"]["dense"]["activation"] = None
    head = from_json(as_json).head
    assert not isinstance(head, LM)
    assert head.dense is not None
    assert head.dense.activation is None
    as_json["head"]["dense"]["activation"] = "step"
    with refused(ConfigError, "config.head.dense.activation", "'step'"):
        from_json(as_json)


def test_ropes_of_both_stacks():
    rope, other = Rope(10.0, 8), Rope(20.0, 8)
    model = attention(attention(PAIR, "encoder", position=other), "decoder", position=rope)
    assert model.ropes == (other, rope)
    assert ENCODER.layers == ()
    assert LLAMA.layers == LLAMA.stack.layers
