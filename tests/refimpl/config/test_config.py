"""Valid and invalid Configs, and their JSON form."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
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
    BlockIndexer,
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
    HyperConnections,
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
from tfm.refimpl.ops.channel_mix import ChannelMix
from tfm.refimpl.ops.disentangled import DisentangledAttention
from tfm.refimpl.ops.gated_delta import GatedDelta
from tfm.refimpl.ops.indexed_attention import IndexedAttention
from tfm.refimpl.ops.latent_attention import LatentAttention
from tfm.refimpl.ops.linear_attention import LinearAttention
from tfm.refimpl.ops.longformer import LongformerAttention
from tfm.refimpl.ops.longt5 import LongT5Attention
from tfm.refimpl.ops.lstm import LSTM
from tfm.refimpl.ops.mamba import Mamba
from tfm.refimpl.ops.mamba2 import Mamba2
from tfm.refimpl.ops.position_tables import position_tables
from tfm.refimpl.ops.short_conv import ShortConv
from tfm.refimpl.ops.time_mix import TimeMix
from tfm.refimpl.ops.xlnet import XLNetAttention
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import flatten, unflatten

# Keys and values of merged attention, which pairs may have, are floats.
cached = st.builds(
    lambda config, kv: config.with_kv(kv), configs(), st.sampled_from(("float", "int8", "int4"))
)
any_config = st.one_of(cached, encoders(), pairs())


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


def blocks(**changed: Any) -> Any:
    """LLAMA with an indexer of blocks, with fields of the indexer or of the attention changed."""
    own = {name: changed.pop(name) for name in ("size", "block", "topk", "local") if name in changed}
    mixer = IndexedAttention(4, 2, 8, Rope(1e4, 4), replace(BlockIndexer(6, 3, 2), **own))
    return layer(LLAMA, attention=replace(mixer, **changed))


def block(part: str = "attention", **changed: Any) -> Any:
    """A decoder of shared blocks with a part of the first one changed."""
    config = tiny_models.shared_blocks()
    return attention(config, **{part: replace(getattr(config.layers[0].attention, part), **changed)})


def memory(**changed: Any) -> Any:
    """A decoder of Qwen4-Exp's form with its memory of n-grams changed."""
    return attention(tiny_models.hyper_connected(), **changed)


def chosen_blocks(part: str = "", **changed: Any) -> Any:
    """The same with its attention to chosen blocks changed, or the attention inside."""
    config = tiny_models.hyper_connected()
    first, last = config.layers
    mixer: Any = last.attention
    mixer = replace(mixer, **({part: replace(getattr(mixer, part), **changed)} if part else changed))
    return stack(config, layers=(first, replace(last, attention=mixer)))


def test_attention_to_chosen_blocks_reads_step_by_step_without_several_streams():
    """Also in a decoder that reads whole texts, which has a cache for it."""
    config = tiny_models.hyper_connected()
    layer = replace(config.layers[1], hyper=None)
    reader = tiny_models.reader(replace(config, stack=replace(config.stack, layers=(layer,))))
    assert reader.layers == (layer,), "with a cache"


def hyper(**changed: Any) -> Any:
    """A Llama with hyper-connections in all layers, and with one of them changed."""
    mixed = HyperConnections(2, 3, RMSNorm(1e-5))
    layers = tuple(replace(each, hyper=mixed) for each in LLAMA.layers)
    return layer(stack(LLAMA, layers=layers), **changed)


def grouped(experts: int, top: int, groups: int, chosen: int) -> Any:
    mlp = MoE(experts, top, 8, "silu", groups=ExpertGroups(groups, chosen))
    return lambda: layer(LLAMA, mlp=mlp)


def encodes(mixer: Any, **changed: Any) -> Any:
    """ENCODER with this token mixer in its layers, changed in the last one."""
    layers = (replace(ENCODER.stack.layers[0], attention=a) for a in (mixer, replace(mixer, **changed)))
    return stack(ENCODER, layers=tuple(layers))


def windowed(first: Any = None, **changed: Any) -> Any:
    return encodes(LongformerAttention(2, 8, 3, first), **changed)


distant = partial(encodes, DisentangledAttention(2, 8, Distances(4)))
summarized = partial(encodes, LongT5Attention(2, 8, 3, RelativeBias(8, 20), 2))


def relative(width: int = 8, types: int | None = 2) -> Any:
    """ENCODER with XLNet's attention in its layers."""
    return replace(encodes(XLNetAttention(2, 4)), embedding=Embedding(9, width, token_types=types))


# A model that isn't one, and words of the error: where, what, what it must be, what it is.
WRONG: list[tuple[Any, str]] = [
    (lambda: replace(LLAMA, context=0), "context 1 16777216 0"),
    (lambda: replace(LLAMA, embedding=Embedding(HUGE, 8)), "vocabulary 1"),
    (lambda: replace(LLAMA, embedding=Embedding(8, HUGE)), "width 1"),
    (lambda: replace(ENCODER, embedding=Embedding(97, 48, token_types=0)), "token types 1"),
    (lambda: replace(ENCODER, head=LM(True)), "head decoder LM encoder LM"),
    (
        lambda: replace(ENCODER, head=QuestionAnswering(mlp=Plain(8, "gelu", pre=LayerNorm(1e-5)))),
        "head's mlp norm after",
    ),
    (lambda: replace(ENCODER, head=QuestionAnswering(mlp=Plain(0, "gelu"))), "width head's mlp 1"),
    (lambda: replace(LLAMA, head=QuestionAnswering()), "encoder QuestionAnswering"),
    (lambda: replace(ENCODER, head=Tag(0)), "labels 1 1048576 0"),
    (lambda: stack(LLAMA, layers=()), "decoder layers 1 1024 0"),
    (lambda: stack(ENCODER, layers=()), "encoder layers 1"),
    (lambda: stack(LLAMA, positions=Learned(127)), "decoder learned positions 128"),
    (
        lambda: stack(LLAMA, norm_before_positions=True, first_norm=LayerNorm(1e-5)),
        "decoder before positions first norm added",
    ),
    (
        lambda: stack(LLAMA, norm_before_positions=True, positions=Learned(128)),
        "decoder before positions first norm added",
    ),
    (lambda: stack(LLAMA, positions=Learned(128, -1)), "offset learned positions 0"),
    (
        lambda: replace(stack(LLAMA, positions=Sinusoidal()), embedding=Embedding(97, 47)),
        "sinusoidal positions even 47",
    ),
    (lambda: attention(LLAMA, heads=7), "decoder layer 0 heads kv_heads 7 2"),
    (lambda: attention(LLAMA, kv_heads=True), "layer 0 kv_heads 1 4096 True"),
    (lambda: attention(LLAMA, mask=Window(0)), "layer 0 window"),
    (mixed(experts=0), "layer 0 experts 1 65536 0"),
    (mixed(top=5), "layer 0 chosen experts 1 4 5"),
    (mixed(top=0), "layer 0 chosen experts 1 4 0"),
    (mixed(shared=None, shared_gate=True), "shared expert's gate expert none"),
    (
        lambda: stack(LLAMA, layers=(replace(LLAMA.layers[0], mlp=MoE(2**15, 1, 9, "silu")),) * 3),
        "decoder experts all layers 0 65536 98304",
    ),
    (
        lambda: attention(LLAMA, position=None, qk_norm=HeadNorm(RMSNorm(1e-6), rotated=True)),
        "layer 0 norm queries keys rotary None",
    ),
    (lambda: attention(LLAMA, position=Rope(1e4, 18)), "layer 0 rotary dims 1 16 18"),
    (lambda: attention(LLAMA, position=Rope(1e4, 7)), "layer 0 rotary dims even 7"),
    (lambda: attention(LLAMA, position=Rope(1e4, 8, factors=(1.0,) * 3)), "layer 0 rotary 4 factors"),
    (lambda: attention(LLAMA, position=Rope(1e4, 2, factors=(-1.0,))), "position.factors[0] positive"),
    (lambda: attention(LLAMA, position=Rope(float("nan"), 8)), "position.theta positive"),
    (lambda: attention(LLAMA, position=RelativeBias(3, 9)), "buckets relative bias 4"),
    (lambda: attention(LLAMA, position=RelativeBias(8, 4)), "max_distance relative bias 5"),
    (scaled(LinearScaling(0.0)), "decoder.layers[0].attention.position.scaling.factor positive"),
    (scaled(LongRope((1.0,) * 7, (1.0,) * 8, 8)), "8 divisors"),
    (scaled(LongRope((1.0,) * 8, (1.0, 0.0) * 4, 8)), "position.scaling.long[1] positive"),
    (scaled(ProportionalScaling(0)), "layer 0 rotated pairs 1 8 0"),
    (scaled(ProportionalScaling(9)), "layer 0 rotated pairs 1 8 9"),
    (mixed(score=SparseMixer()), "sparse mixer renormalize scale choice_bias groups sum_eps"),
    (mixed(latent=3, own_norms=RMSNorm(1e-5)), "layer 0 experts norms own latent"),
    (mixed(gated=False, activation=SwiGLUOAI()), "layer 0 clamped SwiGLU gated"),
    (mixed(shared=None, shared_bias=True), "shared expert latent neither"),
    (mixed(shared=None, average=True), "average shared none"),
    (mixed(shared=None, shared_activation="relu"), "shared expert's activation shared expert"),
    (mixed(identities=-1), "identities 0 65536 -1"),
    (mixed(identities=2, weighs="input"), "identities groups latent norms"),
    (mixed(identities=2, top=7), "chosen experts 1 6 7"),
    (mixed(late=True, average=True), "late experts shared expert without gate"),
    (mixed(late=True, shared=None), "late experts shared expert without gate"),
    (mixed(late=True, shared_gate=True), "late experts shared expert without gate"),
    (lambda: stack(LLAMA, layers=mixed(late=True)().layers[:1]), "decoder late experts last layer"),
    (mixed(own_norms=RMSNorm(1e-5), pre=RMSNorm(1e-5)), "layer 0 mixture norms before parallel"),
    (
        lambda: layer(LLAMA, parallel=True, mlp=MoE(4, 2, 9, "silu", shared=8, own_norms=RMSNorm(1e-5))),
        "layer 0 mixture norms before parallel",
    ),
    (lambda: attention(LLAMA, kv_layer=0), "layer 0 kv_layer earlier 0"),
    (shares(2, kv_layer=-1), "layer 2 kv_layer earlier -1"),
    (shares(3, kv_layer=2), "kv_layer own keys values layer 2 none"),
    (shares(2, kv_layer=1), "layer 2 kv_layer same kv_heads head_size position mask kv"),
    (shares(2, value_norm=RMSNorm(1e-5)), "layer 2 kv_layer no values norm"),
    (shares(2, keys_as_values=True), "layer 2 kv_layer no values norm"),
    (lambda: stack(LLAMA, layers=(layered(Alibi()), layered(Alibi(), 0))), "layer 1 kv_layer rotary Alibi"),
    (
        lambda: Encoder(SHARED.embedding, SHARED.stack, Pool("last"), 128),
        "encoder layer 2 decoder's keys values",
    ),
    (
        lambda: Encoder(
            replace(SHARED.embedding, token_types=2), replace(SHARED.stack, causal=True), Pool("last"), 128
        ),
        "token types",
    ),
    (lambda: embedding(SHARED, per_layer=None), "all per-layer inputs embedding no layer"),
    (lambda: embedding(LLAMA, per_layer=SHARED.embedding.per_layer), "all per-layer inputs one width"),
    (lambda: layer(SHARED, per_layer=None), "all per-layer inputs one width"),
    (
        lambda: stack(SHARED, layers=(replace(SHARED.layers[0], per_layer=PerLayerInput(0, "silu")),)),
        "layer 0 width per-layer input 1",
    ),
    (lambda: embedding(SHARED, per_layer=PerLayerEmbedding(0, RMSNorm(1e-5))), "rows per-layer table 1"),
    (lambda: layer(ENCODER, laurel=Laurel(3, RMSNorm(1e-5))), "encoder layer 0 learned residual decoder"),
    (lambda: layer(LLAMA, laurel=Laurel(0, RMSNorm(1e-5))), "rank learned residual 1"),
    (lambda: layer(ENCODER, altup=AltUp(3, 0, RMSNorm(1e-5))), "encoder layer 0 alternating decoder"),
    (lambda: layer(LLAMA, altup=AltUp(65, 0, RMSNorm(1e-5))), "layer 0 streams 2 64 65"),
    (lambda: layer(LLAMA, altup=AltUp(3, 3, RMSNorm(1e-5))), "layer 0 active stream 0 2 3"),
    (lambda: layer(SHARED, altup=AltUp(3, 0, RMSNorm(1e-5))), "alternating streams all layers none"),
    (lambda: layer(LLAMA, mlp=Gated(9, "silu", sparsity=1.0)), "sparsity below 1 1.0"),
    (lambda: layer(LLAMA, cross=CROSS), "layer 0 cross-attention decoder encoder"),
    (lambda: layer(PAIR, "encoder", cross=CROSS), "encoder layer 0 cross-attention decoder"),
    (lambda: layer(PAIR, "decoder", cross=None), "cross-attention missing encoder"),
    (lambda: layer(PAIR, "decoder", parallel=True), "parallel cross-attention between sublayers"),
    (lambda: layer(PAIR, "decoder", cross=replace(CROSS, heads=3)), "layer 0 cross-attention heads multiple"),
    (lambda: attention(PAIR, "decoder", position=RelativeBias(8, 9)), "decoder table relative biases 2"),
    (lambda: layer(LLAMA, parallel=True, residual="norm"), "combined parallel sublayers"),
    (
        lambda: attention(LLAMA, qk_norm=HeadNorm(LayerNorm(1e-5))),
        "layer 0 norm queries keys weight no bias LayerNorm(eps=1e-05",
    ),
    (lambda: attention(LLAMA, qk_norm=HeadNorm(LayerNorm(1e-5, False, False))), "weight no bias LayerNorm"),
    (lambda: attention(LLAMA, qk_norm=HeadNorm(Affine())), "weight no bias Affine"),
    (lambda: embedding(LLAMA, token_types=2), "encoder token types 2 decoder"),
    (lambda: embedding(LLAMA, projection=EmbeddingProjection(0)), "width tables 1 1048576 0"),
    (lambda: embedding(PAIR, projection=EmbeddingProjection(8)), "two stacks projection embedding"),
    (lambda: embedding(ENCODER, projection=EmbeddingProjection(8)), "tied embedding's width 8 48"),
    (lambda: replace(ENCODER, head=MaskedLM(True, Dense(None, width=9))), "tied embedding's width 48 9"),
    (lambda: replace(ENCODER, head=Tag(2, Dense(None, width=0))), "head's dense map 1 1048576"),
    (
        lambda: embedding(stack(LLAMA, positions=Sinusoidal()), projection=EmbeddingProjection(7, late=True)),
        "decoder sinusoidal positions even 7",
    ),
    (lambda: attention(ENCODER, kv="int8"), "decoder keys values kv 'int8'"),
    (lambda: attention(LLAMA, value_size=LLAMA.layers[0].attention.head_size + 1), "most wide head"),
    (lambda: attention(LLAMA, out_norm=RMSNorm(1e-5), output_gate=True), "heads' output gate out_norm both"),
    (lambda: attention(LLAMA, out_norm=RMSNorm(1e-5), head_gate=True), "heads' output gate out_norm both"),
    (lambda: attention(PAIR, "decoder", heads=12), "all layers table relative biases 2"),
    (lambda: layer(LLAMA, attention=LinearAttention(3, 2, 8)), "heads multiple kv_heads 3"),
    (lambda: layer(MERGING, "decoder", cross=CROSS), "merged cross-attention attention's keys"),
    (lambda: MERGING.with_kv("int8"), "merged attention no added positions"),
    (lambda: attention(MERGING, "decoder", position=Alibi()), "merged attention no added positions"),
    (lambda: layer(LLAMA, merged=True), "merged cross-attention attention's keys Attention"),
    (lambda: layer(LLAMA, merged=True, attention=ShortConv(8)), "merged cross-attention decoder"),
    (lambda: attention(LLAMA, mask=Window(2, 3)), "later positions window encoder"),
    (lambda: embedding(MERGING, apart=97), "token vector own 0 96 97"),
    (adaptive(tied=True), "adaptive softmax own softcap scale"),
    (adaptive(softcap=2.0), "own softcap scale"),
    (adaptive(dense=Dense(None)), "own softcap scale dense map"),
    (lambda: replace(LLAMA, head=LM(True, dense=Dense(None, width=9))), "tied embedding's width 48 9"),
    (adaptive(cutoffs=()), "clusters adaptive softmax 1 32 0"),
    (adaptive(cutoffs=(0, 9)), "cutoffs adaptive softmax ascending 1 96 0"),
    (adaptive(cutoffs=(9, 9)), "cutoffs adaptive softmax ascending 10 96 9"),
    (adaptive(cutoffs=(9, 97)), "ascending 10 96 97"),
    (adaptive(cutoffs=(9, 20, 30)), "width last cluster 1 1048576 0"),
    (adaptive(divisor=49.0), "divisor adaptive softmax 1 48 49.0"),
    (adaptive(divisor=0.5), "divisor adaptive softmax 1 48 0.5"),
    (grouped(6, 2, 4, 1), "layer 0 experts multiple groups 6 4"),
    (grouped(6, 4, 3, 1), "chosen experts groups 2 4"),
    (grouped(6, 1, 3, 4), "chosen groups experts 1 3 4"),
    (grouped(6, 1, 6, 1), "groups two best experts least 1"),
    (lambda: layer(LLAMA, attention=ShortConv(8, 1)), "layer 0 length convolution 2 256 1"),
    (lambda: layer(LLAMA, attention=latent(position=Rope(1e4, 3))), "rotary dims even 3"),
    (lambda: layer(LLAMA, attention=latent(query_scale=QueryScale(0.1, 0))), "original context queries 1"),
    (lambda: layer(LLAMA, attention=indexed(heads=0)), "heads indexer 1 4096 0"),
    (lambda: layer(LLAMA, attention=indexed(size=3)), "size indexer's heads 4 1048576 3"),
    (
        lambda: layer(LLAMA, attention=latent(indexer=SharedIndexer(3))),
        "layer 0 shared indexer earlier own indexer",
    ),
    (
        lambda: stack(
            INDEXED,
            layers=(
                *INDEXED.layers[:2],
                replace(INDEXED.layers[2], attention=latent(indexer=SharedIndexer(3))),
            ),
        ),
        "layer 2 shared indexer topk 6 3",
    ),
    (lambda: layer(ENCODER, attention=indexed()), "encoder layer 0 indexer decoder"),
    (lambda: blocks(heads=3), "layer 0 heads kv_heads 3 2"),
    (lambda: blocks(position=Rope(1e4, 10)), "layer 0 rotary dims 8 10"),
    (lambda: blocks(size=3), "layer 0 size indexer's heads 4 1048576 3"),
    (lambda: blocks(block=0), "layer 0 block indexer 1 0"),
    (lambda: blocks(topk=0), "layer 0 topk indexer 1 0"),
    (lambda: blocks(local=-1), "layer 0 local blocks indexer 0 -1"),
    (lambda: blocks(local=3), "layer 0 local blocks indexer topk 2 3"),
    (
        lambda: layer(ENCODER, attention=tiny_models.indexed_blocks().layers[0].attention),
        "encoder layer 0 indexer decoder",
    ),
    (lambda: layer(ENCODER, attention=ShortConv(8)), "encoder layer 0 short convolution decoder"),
    (lambda: layer(LLAMA, attention=GatedDelta(3, 2, 8, 8)), "layer 0 heads key_heads 3 2"),
    (lambda: layer(LLAMA, attention=GatedDelta(2, 1, 8, 8, 1)), "layer 0 length convolution 2 256 1"),
    (lambda: layer(LLAMA, attention=GatedDelta(2, 1, 8, 8, max_decay=2.0)), "max_decay decay channel"),
    (lambda: layer(LLAMA, attention=latent(position=None)), "shared_size 0 1048576 None"),
    (lambda: layer(LLAMA, attention=latent(position=None, shared_size=-1)), "shared_size 0 1048576 -1"),
    (lambda: layer(LLAMA, attention=latent(shared_size=4)), "shared_size attention without positions"),
    (lambda: layer(ENCODER, attention=GatedDelta(2, 1, 8, 8)), "encoder layer 0 gated delta decoder"),
    (lambda: layer(LLAMA, attention=Mamba2(3, 2, 8, 8)), "layer 0 heads groups 3 2"),
    (lambda: layer(LLAMA, attention=Mamba2(2, 1, 8, 8, 1)), "layer 0 length convolution 2 256 1"),
    (lambda: layer(ENCODER, attention=Mamba2(2, 1, 8, 8)), "encoder layer 0 Mamba 2's decoder"),
    (lambda: layer(ENCODER, beside=Beside(Mamba2(2, 1, 8, 8))), "encoder layer 0 state beside decoder"),
    (lambda: memory(inputs=47), "inputs memory n-grams width 48 47"),
    (lambda: memory(pre=RMSNorm(1e-5)), "memory n-grams norms around"),
    (lambda: memory(multipliers=(1,)), "layer 0 length longest n-gram 2 256 1"),
    (lambda: memory(primes=(3, 5, 7)), "layer 0 primes multiple 2 3"),
    (lambda: memory(primes=(3, 0)), "layer 0 rows of a head 1 0"),
    (lambda: memory(primes=()), "layer 0 heads of n-grams 1 0"),
    (lambda: memory(rows=119), "layer 0 rows 120 119"),
    (lambda: memory(end=97), "end token n-grams 0 96 97"),
    (lambda: memory(multipliers=(1, 2**63 // 97, 2**57)), "multiplier n-grams 144115188075855872"),
    (lambda: memory(streams=2), "memory n-grams hyper-connections of 2 streams"),
    (lambda: chosen_blocks("attention", pre=RMSNorm(1e-5)), "chosen blocks no norms around"),
    (lambda: chosen_blocks("attention", position=None), "chosen blocks rotary"),
    (lambda: chosen_blocks("attention", sink_logits=True), "chosen blocks sinks"),
    (lambda: chosen_blocks("attention", kv_heads=4), "chosen blocks heads multiple kv_heads"),
    (lambda: chosen_blocks(index_size=15), "size indexer's heads 16 15"),
    (lambda: layer(ENCODER, hyper=HyperConnections(2, 3, RMSNorm(1e-5))), "hyper-connections decoder"),
    (lambda: layer(LLAMA, hyper=HyperConnections(2, 3, RMSNorm(1e-5))), "all layers hyper-connections none"),
    (lambda: layer(LLAMA, hyper=HyperConnections(1, 3, RMSNorm(1e-5))), "layer 0 streams 2 64 1"),
    (lambda: layer(LLAMA, hyper=HyperConnections(2, 0, RMSNorm(1e-5))), "layer 0 rank hyper-connections 1 0"),
    (lambda: hyper(parallel=True), "layer 0 hyper-connections combined parallel"),
    (lambda: hyper(residual="norm"), "layer 0 hyper-connections combined parallel"),
    (lambda: hyper(laurel=Laurel(3, RMSNorm(1e-5))), "layer 0 hyper-connections combined parallel"),
    (
        lambda: hyper(mlp=replace(LLAMA.layers[0].mlp, after=RMSNorm(1e-5))),
        "layer 0 hyper-connections norms after",
    ),
    (lambda: layer(LLAMA, attention=TimeMix(8, 15)), "inputs time mixing width 15"),
    (lambda: layer(LLAMA, attention=ChannelMix(8, 15)), "inputs channel mixing width 15"),
    (
        lambda: layer(LLAMA, attention=LSTM(8), beside=Beside(Mamba2(2, 1, 8, 8))),
        "layer 0 state beside attention decoder",
    ),
    (
        lambda: layer(LLAMA, beside=Beside(Mamba2(2, 1, 8, 8, pre=RMSNorm(1e-5)))),
        "layer 0 state beside attention own norms",
    ),
    (lambda: layer(LLAMA, beside=Beside(Mamba2(3, 2, 8, 8))), "layer 0 beside attention heads groups 3 2"),
    (
        lambda: layer(LLAMA, attention=Mamba2(2, 1, 8, 8, multipliers=(1.0, 2.0))),
        "layer 0 multipliers five none 2",
    ),
    (lambda: block(pre=LayerNorm(1e-5)), "attention shared block RMSNorm before attention"),
    (lambda: block(kv_heads=3), "attention shared block heads multiple kv_heads"),
    (lambda: block(position=Alibi()), "positions shared block rotary"),
    (lambda: block(out_bias=True), "attention shared block only wk wv"),
    (lambda: block("mlp", after=RMSNorm(1e-5)), "mlp shared block RMSNorm before mlp"),
    (lambda: block("mlp", scale=2.0), "mlp shared block scales sparsity norm inside"),
    (lambda: block("mlp", width=0), "mlp shared block mlp width 1"),
    (lambda: block("mamba", groups=4), "Mamba 2 shared block heads multiple groups"),
    (lambda: layer(LLAMA, attention=Mamba(8, 8, 2, 1)), "layer 0 length convolution 2 256 1"),
    (lambda: layer(ENCODER, attention=Mamba(8, 8, 2)), "encoder layer 0 Mamba's decoder"),
    (lambda: layer(LLAMA, mlp=NoMlp(), parallel=True), "layer 0 parallel mlp NoMlp"),
    (lambda: layer(ENCODER, attention=LSTM(8)), "encoder layer 0 LSTM decoder"),
    (lambda: layer(PAIR, "encoder", attention=LinearAttention(2, 2, 4)), "linear attention decoder"),
    (lambda: attention(LLAMA, pre=RMSNorm(float("inf"))), "attention.pre.eps positive"),
    (lambda: attention(LLAMA, qk_norm=HeadNorm(RMSNorm(float("nan")))), "qk_norm.norm.eps positive"),
    (lambda: replace(LLAMA, head=LM(True, softcap=float("nan"))), "head.softcap positive"),
    (lambda: replace(LLAMA, head=LM(True, scale=1e39)), "head.scale positive 2^-126"),
    (scaled(Yarn(2.0, 8, beta_fast=1e308)), "position.scaling.beta_fast positive 2^-126"),
    (scaled(Llama3Scaling(2.0, 4.0, 3.0, 8)), "low_freq_factor most high_freq_factor 4.0"),
    (
        lambda: attention(LLAMA, position=Rope(1.0, 16, scaling=Yarn(2.0, 8))),
        "layer 0 yarn theta above 1 1.0",
    ),
    (lambda: replace(LLAMA, stack=LAST.stack), "decoder always causal stack"),
    (lambda: read_twice(DecoderReader(PAIR.decoder, 3)), "reader's stack causal"),
    (lambda: replace(read_twice(LAST), head=Classify(2, "last", end=97)), "end token 0 96"),
    (lambda: read_twice(replace(LAST, start=97)), "reader's start token 0 96 97"),
    (lambda: read_twice(replace(LAST, start=-1)), "reader's start token 0 96 -1"),
    (lambda: distant(distances=Distances(0)), "span distances 1"),
    (lambda: distant(distances=Distances(3, 9)), "span distance table even 3"),
    (lambda: distant(distances=Distances(4, 3)), "log_until distances 4 16777216 3"),
    (lambda: distant(distances=Distances(6)), "encoder all layers table distances 2"),
    (
        lambda: distant(content_to_position=False, position_to_content=False),
        "disentangled attention least one positions",
    ),
    (lambda: stack(distant(), causal=True), "encoder layer 0 disentangled attention encoder causal"),
    (
        lambda: layer(LLAMA, attention=DisentangledAttention(2, 8, Distances(4))),
        "decoder layer 0 disentangled attention encoder",
    ),
    (lambda: stack(LLAMA, stem=ConvStem(6)), "decoder encoder causal sounds"),
    (lambda: stack(ENCODER, stem=ConvStem(6)), "sound decoder CTC"),
    (lambda: replace(ENCODER, head=CTC()), "sound decoder CTC"),
    (lambda: heard(stem=wave(Convolution(5, 0, 1))), "encoder length convolution"),
    (lambda: heard(stem=wave()), "encoder number convolutions"),
    (lambda: heard(stem=wave(*[Convolution(5, 9, 9)] * 9)), "encoder vector cover most"),
    (lambda: heard(stem=wave(*[Convolution(5, 1, 256)] * 3)), "encoder vector cover most"),
    (lambda: heard(positions=Learned(32)), "encoder samples positions table"),
    (
        lambda: writes(stem=MoonshineStem((Convolution(5, 3, 1),))),
        "encoder last convolution wide model 48 5",
    ),
    (lambda: writes(positions=Learned(64)), "encoder samples positions table"),
    (lambda: heard(positions=ConvPositions(3, 5, "gelu")), "groups positions' convolution divide"),
    (lambda: heard(positions=ConvPositions(3, 99, "gelu")), "groups positions' convolution"),
    (lambda: heard(causal=True), "encoder causal sounds"),
    (lambda: embedding(heard(), token_types=2), "encoder sounds token types"),
    (lambda: embedding(LLAMA, projection=EmbeddingProjection(9, trigram=True)), "trigram encoder"),
    (lambda: replace(tiny_models.narrow(), head=MaskedLM(False, further=3)), "further width 3"),
    (
        lambda: attention(tiny_models.narrow(), mlps=(Plain(7, "relu"),)),
        "encoder layer 0 mlp bottleneck norm after",
    ),
    (lambda: attention(tiny_models.narrow(), mlps=()), "mlps bottleneck 1 32 0"),
    (lambda: embedding(heard(), token_dropout=TokenDropout(3)), "encoder sounds token types"),
    (lambda: embedding(heard(), scale=8.0), "sounds no embeddings scale 8.0"),
    (lambda: vectors(heard(), "stack"), "encoder sounds token types"),
    (lambda: vectors(PAIR, "encoder", "decoder"), "per-layer inputs one stack"),
    (lambda: replace(heard(), head=CTC(tied=False)), "sounds tied"),
    (lambda: stack(ENCODER, positions=ConvPositions(3, 2, "gelu")), "encoder positions convolution sounds"),
    (
        lambda: layer(LLAMA, conv=NeighbourConv(1, "tanh", LayerNorm(1e-5))),
        "decoder layer 0 convolution neighbours encoder",
    ),
    (
        lambda: layer(ENCODER, conv=NeighbourConv(-1, "tanh", LayerNorm(1e-5))),
        "encoder layer 0 neighbours convolution 0 256 -1",
    ),
    (lambda: windowed(global_tokens=FirstToken()), "encoder all layers global tokens 2"),
    (lambda: windowed(QuestionTokens(97)), "encoder separator question 0 96 97"),
    (lambda: stack(windowed(), causal=True), "encoder layer 0 Longformer's encoder causal"),
    (lambda: replace(PAIR, encoder_context=0), "encoder's context 1 16777216 0"),
    (
        lambda: replace(tiny_models.reading_decoder(), encoder_context=32),
        "reader encoder's encoder_context",
    ),
    (
        lambda: replace(PAIR, encoder=replace(PAIR.encoder, positions=Learned(32)), encoder_context=33),
        "encoder learned positions 33 16777216 32",
    ),
    (lambda: layer(LLAMA, attention=LongformerAttention(2, 8, 3)), "decoder layer 0 Longformer's encoder"),
    (lambda: summarized(radius=4), "encoder all layers radius global_block_size 2"),
    (lambda: summarized(global_block_size=None), "all layers radius global_block_size 2"),
    (lambda: summarized(heads=3), "encoder all layers table relative biases 2"),
    (
        lambda: summarized(position=RelativeBias(8, 20, shared=False)),
        "encoder layer 1 all layers LongT5's share biases",
    ),
    (lambda: stack(summarized(), causal=True), "encoder layer 0 LongT5's encoder causal"),
    (
        lambda: layer(LLAMA, attention=LongT5Attention(2, 8, 3, RelativeBias(8, 20))),
        "decoder layer 0 LongT5's encoder",
    ),
    (lambda: relative(width=7), "encoder sines cosines distances even 7"),
    (lambda: relative(types=None), "encoder segments token types"),
    (lambda: layer(LLAMA, attention=XLNetAttention(2, 8)), "decoder layer 0 XLNet's encoder"),
    (lambda: attention(LLAMA, mask=BigBirdBlocks(4, 1)), "layer 0 BigBird's blocks encoder causal"),
    (
        lambda: attention(ENCODER, mask=BigBirdBlocks(4, 1), position=Alibi()),
        "layer 0 BigBird's no biases scores no sinks",
    ),
    (
        lambda: attention(ENCODER, mask=BigBirdBlocks(4, 1), sink_logits=True),
        "encoder layer 0 BigBird's no biases scores no sinks",
    ),
]


# Sizes that a part checks itself, mostly against others: rows of WRONG are about these.
OWN_CHECK = {
    "AdaptiveSoftmax.cutoffs", "AltUp.active", "AltUp.streams", "Attention.kv_layer",
    "Attention.value_size", "Classify.end", "ConvPositions.groups", "Decoder.context",
    "DecoderReader.start", "Dense.width", "Distances.log_until", "Distances.span", "Embedding.task_types",
    "Embedding.token_types", "Embedding.vocabulary", "Embedding.width", "EmbeddingProjection.width",
    "Encoder.context", "EncoderDecoder.context", "EncoderDecoder.encoder_context", "ExpertGroups.count",
    "ExpertGroups.top", "HyperConnections.rank", "HyperConnections.streams", "LatentAttention.shared_size",
    "Laurel.rank", "Learned.offset", "Learned.size", "MoE.identities", "MoE.top",
    "NeighbourConv.neighbours", "NgramMemory.end", "NgramMemory.multipliers", "NgramMemory.primes",
    "PerLayerEmbedding.rows", "PerLayerInput.width", "Pool.cuts", "ProportionalScaling.turned",
    "QuestionTokens.separator", "RelativeBias.max_distance", "Rope.dims", "SharedIndexer.topk",
    "Sinusoidal.offset",
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
        with refused(ConfigError, "cross-attention", "position", "mask"):
            layer(PAIR, "decoder", cross=replace(CROSS, **{name: value}))


def test_the_smallest_and_largest_numbers_compute():
    """Numbers at the bounds give outputs, not Python errors."""
    for theta in (math.nextafter(1, 2), 2.0**126):
        for one in (2.0**-126, 2.0**126):
            yarn = Yarn(one, 8, one, one)
            for scaling in (None, LinearScaling(one), DynamicNTK(one, 8), yarn, Llama3Scaling(one, 1, 4, 8)):
                config = attention(LLAMA, position=Rope(theta, 16, scaling=scaling))
                position_tables(np.array([1]), config=config)


@pytest.mark.parametrize(("make", "words"), WRONG)
def test_refused(make: Any, words: str):
    with refused(ConfigError, *words.split()):
        make()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": {"type": "Choose"}}, "config.head.type 'CTC' 'Classify' 'MaskedLM'"),
        ({"head": {"type": "Pool", "pooling": "median"}}, "config.head.pooling 'median'"),
        ({"head": {"type": "Pool", "pooling": "mean", "size": 3}}, "config.head.size"),
        ({"head": {"type": "Tag"}}, "config.head.labels"),
        ({"head": {"type": "Tag", "labels": 2.0}}, "config.head.labels"),
        ({"stack": 3}, "config.stack"),
        ({"stack": None}, "config.stack"),
        ({"stack": {"type": "Stack", "layers": {}, "final_norm": None}}, "config.stack.layers"),
        ({"type": "Config"}, "config.type 'Decoder' 'Encoder' 'EncoderDecoder'"),
    ],
)
def test_json_refused(change: dict[str, Any], words: str):
    with refused(ConfigError, *words.split()):
        from_json(to_json(ENCODER) | change)


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
