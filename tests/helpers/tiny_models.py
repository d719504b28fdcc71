"""Tiny models for tests, with random weights, biases and norms. All axes have different sizes."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from tfm.refimpl.config import (
    CTC,
    LM,
    MTP,
    Activation,
    AdaptiveSoftmax,
    Affine,
    Alibi,
    AltUp,
    Attention,
    Beside,
    BigBirdBlocks,
    BlockIndexer,
    BlockSparse,
    Classify,
    Config,
    Convolution,
    ConvPositions,
    ConvStem,
    Decoder,
    DecoderReader,
    Dense,
    Distances,
    Embedding,
    EmbeddingProjection,
    Encoder,
    EncoderDecoder,
    ExpertGroups,
    FullAttention,
    Gated,
    GlobalTokens,
    HeadNorm,
    HyperConnections,
    Indexer,
    Laurel,
    Layer,
    LayerNorm,
    Learned,
    MaskedLM,
    MoE,
    MoonshineStem,
    NeighbourConv,
    NoMlp,
    PerLayerEmbedding,
    PerLayerInput,
    Plain,
    Pool,
    Position,
    ProportionalScaling,
    QueryScale,
    ReadingHead,
    RelativeBias,
    RMSNorm,
    Rope,
    SharedIndexer,
    Sinusoidal,
    Stack,
    SwiGLUOAI,
    SwiGLUStep,
    TokenMixer,
    WaveStem,
    Window,
)
from tfm.refimpl.ops.channel_mix import ChannelMix
from tfm.refimpl.ops.convbert import ConvBertAttention
from tfm.refimpl.ops.disentangled import DisentangledAttention
from tfm.refimpl.ops.gated_delta import GatedDelta
from tfm.refimpl.ops.indexed_attention import IndexedAttention
from tfm.refimpl.ops.latent_attention import LatentAttention
from tfm.refimpl.ops.lightning import Lightning
from tfm.refimpl.ops.linear_attention import LinearAttention
from tfm.refimpl.ops.longformer import LongformerAttention
from tfm.refimpl.ops.longt5 import LongT5Attention
from tfm.refimpl.ops.lstm import LSTM
from tfm.refimpl.ops.mamba import Mamba
from tfm.refimpl.ops.mamba2 import Mamba2
from tfm.refimpl.ops.mobilebert import MobileBertBottleneck
from tfm.refimpl.ops.ngram_memory import NgramMemory
from tfm.refimpl.ops.pooled_attention import PooledAttention
from tfm.refimpl.ops.rg_lru import RgLru
from tfm.refimpl.ops.shared_block import SharedBlock
from tfm.refimpl.ops.short_conv import ShortConv
from tfm.refimpl.ops.time_mix import TimeMix
from tfm.refimpl.ops.xlnet import XLNetAttention
from tfm.refimpl.params.random_weights import random_weights


def llama(
    *,
    layers: int = 2,
    vocabulary: int = 97,
    width: int = 48,
    heads: int = 6,
    kv_heads: int = 2,
    head_size: int = 16,
    mlp: int = 80,
    window: int | None = None,
    tied: bool = True,
    bias: bool = False,
    qk_norm: bool = False,
    plain: bool = False,
    kind: Activation = "silu",
    context: int = 128,
) -> Decoder:
    """A decoder of Llama's form; the defaults suit the fused attention operator (head size 16)."""
    norm = LayerNorm(1e-5) if plain else RMSNorm(1e-5)
    attention = Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        position=Rope(10_000.0, head_size),
        mask=FullAttention() if window is None else Window(window),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=HeadNorm(RMSNorm(1e-6)) if qk_norm else None,
        pre=norm,
    )
    feed = Plain(mlp, kind, bias=bias, pre=norm) if plain else Gated(mlp, kind, bias=bias, pre=norm)
    return Decoder(
        embedding=Embedding(vocabulary, width),
        stack=Stack((Layer(attention, feed),) * layers, norm),
        head=LM(tied),
        context=context,
    )


def of_layers(base: Decoder, layers: Iterable[Layer]) -> Decoder:
    """The decoder with these layers."""
    return replace(base, stack=replace(base.stack, layers=tuple(layers)))


def with_mixers(base: Decoder, *mixers: TokenMixer) -> Decoder:
    """The decoder with a layer for each mixer, otherwise like its first one."""
    return of_layers(base, (replace(base.layers[0], attention=mixer) for mixer in mixers))


def mixed_windows(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder whose layers have full attention or one of two windows; one layer has no positions."""
    base = llama(layers=4, vocabulary=vocabulary, tied=False, bias=True, qk_norm=True, context=context)
    first, second, third, fourth = base.layers
    theta = Rope(100.0, 16, interleaved=True)
    return with_mixers(
        base,
        replace(first.attention, mask=Window(5)),
        second.attention,
        replace(third.attention, mask=Window(3), position=theta, softcap=2.0),
        replace(fourth.attention, mask=Window(5), position=None, kv_heads=6),
    )


def heads_by_layer(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder of Gemma 4's form: heads of other layers have another size and number, and their values are
    their keys."""
    base = llama(vocabulary=vocabulary, qk_norm=True, context=context)
    first, norm = base.layers[0], RMSNorm(1e-5)
    near = replace(first.attention, mask=Window(5), scale=1.0, value_norm=norm, post=norm)
    rope = Rope(100.0, 32, scaling=ProportionalScaling(4, 2.0))
    far = replace(near, kv_heads=1, head_size=32, position=rope, mask=FullAttention(), keys_as_values=True)
    return of_layers(base, (replace(first, attention=each, scalar=True) for each in (near, far)))


def shared_kv(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder of Gemma 4's smaller form: its upper layers read the keys and values of lower ones, and each
    layer has a vector of its own for each token but the last three."""
    base = heads_by_layer(context, vocabulary)
    own = PerLayerInput(16, "gelu_tanh", RMSNorm(1e-5))
    first, second = (replace(layer, per_layer=own) for layer in base.layers)

    def reading(layer: Layer, source: int) -> Layer:
        assert isinstance(layer.attention, Attention)
        attention = replace(layer.attention, kv_layer=source, value_norm=None, keys_as_values=False)
        return replace(layer, attention=attention)

    layers = (first, second, reading(first, 0), reading(second, 1))
    embedding = replace(base.embedding, scale=8.0, per_layer=PerLayerEmbedding(vocabulary - 3, RMSNorm(1e-5)))
    return replace(base, embedding=embedding, stack=replace(base.stack, layers=layers))


def closed_gates(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder in which a norm follows two gates, which may both be nearly closed."""
    base, own = shared_kv(context, vocabulary), PerLayerInput(2, "silu", RMSNorm(1e-5))
    return of_layers(base, (replace(layer, per_layer=own) for layer in base.layers))


def altup(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder of Gemma 3n's form: three streams of a token, learned residuals, sparse lower layers, and
    upper layers that read the keys and values of lower ones."""
    base = shared_kv(context, vocabulary)
    norm = RMSNorm(1e-5)

    def changed(i: int, layer: Layer) -> Layer:
        assert isinstance(layer.mlp, Gated)
        assert layer.per_layer is not None
        mlp = replace(layer.mlp, sparsity=0.6) if i < 2 else layer.mlp
        own = replace(layer.per_layer, scaled=True)
        return replace(layer, mlp=mlp, per_layer=own, laurel=Laurel(12, norm), altup=AltUp(3, 1, norm))

    layers = tuple(changed(i, layer) for i, layer in enumerate(base.layers))
    return of_layers(base, layers)


def adaptive(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder whose output has a short list of 60 ids and two clusters."""
    base = llama(vocabulary=vocabulary, context=context, tied=False)
    return replace(base, head=LM(False, bias=True, adaptive=AdaptiveSoftmax((60, 80))))


def four_in_one(context: int = 128) -> Decoder:
    """A decoder with linear attention, an LSTM, a block-sparse mask and an adaptive softmax."""
    base = recurrent(context)
    *layers, last = base.layers
    masked = replace(last, attention=replace(last.attention, mask=BlockSparse(3)))
    return replace(base, stack=replace(base.stack, layers=(*layers, masked)), head=adaptive().head)


def block_sparse(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder of two layers with block-sparse masks, one of them without global blocks."""
    base = llama(vocabulary=vocabulary, context=context)
    masks = BlockSparse(3, 1, 1), BlockSparse(2, 2, 0)
    layers = tuple(
        replace(layer, attention=replace(layer.attention, mask=mask))
        for layer, mask in zip(base.layers, masks, strict=True)
    )
    return of_layers(base, layers)


def recurrent(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder with linear attention, an LSTM and attention, one a layer; learned positions."""
    base = llama(layers=3, vocabulary=vocabulary, tied=False, context=context)
    linear = LinearAttention(6, 2, 8, qkv_bias=True, out_bias=True, pre=RMSNorm(1e-5))
    base = with_mixers(base, linear, LSTM(20, pre=linear.pre), base.layers[2].attention)
    return replace(base, stack=replace(base.stack, positions=Learned(context)))


def convolutions(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder with short convolutions, one of them with biases, around attention."""
    base = llama(layers=3, vocabulary=vocabulary, qk_norm=True, context=context)
    first, last = ShortConv(40, 3, pre=RMSNorm(1e-5)), ShortConv(48, 4, bias=True, pre=RMSNorm(1e-5))
    return with_mixers(base, first, base.layers[1].attention, last)


def gated_deltas(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder with gated delta networks around attention with gates of both kinds; heads share keys in
    one, and sizes differ in both."""
    base = llama(layers=3, vocabulary=vocabulary, qk_norm=True, context=context)
    first, norm = base.layers[0], RMSNorm(1e-5)
    gated = replace(first.attention, output_gate=True, head_gate=True)
    last = GatedDelta(3, 3, 8, 20, 4, 1e-5, pre=norm, allow_neg_eigval=True)
    return with_mixers(base, GatedDelta(4, 2, 16, 12, 3, pre=norm), gated, last)


def kimi(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder of Kimi Linear's form: Kimi delta attention around latent attention without positions, and
    experts. Sizes differ, and heads share keys in the last layer."""
    base = latents(context, vocabulary)
    first, second = base.layers
    plain = LatentAttention(3, 20, 8, 12, None, pre=second.attention.pre, shared_size=6)
    narrow = GatedDelta(3, 3, 8, 12, 3, pre=first.attention.pre, rank=5)
    wide = GatedDelta(4, 2, 16, 20, 4, 1e-5, pre=first.attention.pre, allow_neg_eigval=True, rank=7)
    layers = (
        replace(first, attention=narrow),
        replace(second, attention=plain),
        replace(second, attention=wide),
    )
    return of_layers(base, layers)


def ling(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder of Ling 3's form: decays of channels within a bound, latent attention with gates of heads;
    and lightning attention. Hidden units are within bounds, others for experts and for the shared one."""
    base = latents(context, vocabulary)
    first, second = base.layers
    pre = first.attention.pre
    delta = GatedDelta(3, 3, 8, 12, 3, pre=pre, by_channel=True, max_decay=2.0)
    assert isinstance(second.attention, LatentAttention)
    assert isinstance(first.mlp, Gated)
    assert isinstance(second.mlp, MoE)
    own, shared = SwiGLUStep(0.2), SwiGLUStep(0.1)
    bounded = replace(second.mlp, activation=own, shared=20, shared_activation=shared)
    layers = (
        replace(first, attention=delta, mlp=replace(first.mlp, activation=SwiGLUStep(0.3))),
        replace(second, attention=replace(second.attention, head_gate=True), mlp=bounded),
        replace(second, attention=Lightning(3, 10, 0.7, pre=pre)),
    )
    return of_layers(base, layers)


def normed_outputs(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder with norms of an mlp's hidden units, in its first layer also of what heads give."""
    base = llama(layers=2, vocabulary=vocabulary, context=context)
    first, norm = base.layers[0], RMSNorm(1e-2)
    assert isinstance(first.mlp, Gated)
    both = replace(
        first,
        attention=replace(first.attention, out_norm=norm),
        mlp=replace(first.mlp, activation="relu_squared", down_norm=norm),
    )
    layers = both, replace(first, mlp=replace(first.mlp, down_norm=RMSNorm(1e-5)))
    return of_layers(base, layers)


def state_spaces(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder with Mamba 2's layers around attention: heads share keys in the first, which has every bias;
    the last has no mlp and its norm before the gate. Sizes differ in both. Another one is beside the
    attention, where numbers multiply what maps read and give."""
    base = llama(layers=3, vocabulary=vocabulary, context=context)
    first, norm = base.layers[0], RMSNorm(1e-5)
    biased = Mamba2(6, 2, 16, 12, 3, bias=True, out_bias=True, pre=norm)
    plain = Mamba2(3, 1, 8, 20, 4, conv_bias=False, norm="before_gate", eps=1e-6, pre=norm)
    scaled = Mamba2(4, 2, 6, 10, 3, norm=None, multipliers=(0.5, 1.5, 0.75, 1.25, 2.0))
    assert isinstance(first.mlp, Gated)
    both = replace(
        first,
        mlp=replace(first.mlp, gate_scale=0.75, scale=1.5),
        beside=Beside(scaled, 1.25, 0.75, 0.5, 1.5),
    )
    last = replace(first, attention=plain, mlp=NoMlp())
    return of_layers(base, (replace(first, attention=biased), both, last))


def selective_scans(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder with Mamba's layers around attention: the first with every bias and norms without weights,
    the last with norms and without an mlp. Sizes differ in both."""
    base = llama(layers=3, vocabulary=vocabulary, context=context)
    first, norm = base.layers[0], RMSNorm(1e-5)
    biased = Mamba(40, 8, 5, 3, bias=True, norms="bare", pre=norm)
    plain = Mamba(56, 6, 3, 4, conv_bias=False, norms="weighted", eps=1e-3, pre=norm)
    last = replace(first, attention=plain, mlp=NoMlp())
    return of_layers(base, (replace(first, attention=biased), first, last))


def linear_units(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder with linear recurrent units around attention; sizes differ in both."""
    base = llama(layers=3, vocabulary=vocabulary, context=context)
    first, last = RgLru(3, 8, 3, pre=RMSNorm(1e-5)), RgLru(2, 10, 4, "silu", pre=RMSNorm(1e-5))
    return with_mixers(base, first, base.layers[1].attention, last)


def time_mixes(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder of RWKV's form: time mixing and channel mixing in turn, each a layer without an mlp. Sizes
    differ in both pairs."""
    base = llama(layers=3, vocabulary=vocabulary, context=context, tied=False)
    width, norm = base.embedding.width, LayerNorm(1e-5)
    mixers = (
        TimeMix(40, width, pre=norm), ChannelMix(72, width, pre=norm),
        TimeMix(56, width, pre=LayerNorm(1e-3)), ChannelMix(64, width, pre=norm),
    )  # fmt: skip
    stack = Stack(tuple(Layer(mixer, NoMlp()) for mixer in mixers), norm, first_norm=norm)
    return replace(base, stack=stack)


def shared_blocks(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder of Zamba 2's form: Mamba 2 alone between two layers with a transformer block. One block has
    positions and biases; sizes differ in both."""
    base, norm = llama(layers=3, vocabulary=vocabulary, context=context), RMSNorm(1e-5)
    alone = Mamba2(4, 2, 6, 10, 3, pre=norm)
    turned = Attention(4, 2, 24, Rope(1e4, 24), scale=0.3, pre=norm)
    mlp = Gated(56, "gelu", bias=True, pre=RMSNorm(1e-3))
    first = SharedBlock(turned, mlp, Mamba2(6, 2, 16, 12, 3, bias=True, out_bias=True, pre=RMSNorm(1e-4)))
    last = SharedBlock(Attention(3, 3, 16, pre=RMSNorm(1e-2)), replace(mlp, bias=False), alone)
    return of_layers(base, tuple(Layer(mixer, NoMlp()) for mixer in (first, alone, last)))


def hyper_connected(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder of Qwen4-Exp's form: three streams of a token, a memory of n-grams, and attention to two
    blocks of three tokens."""
    base = llama(vocabulary=vocabulary, context=context)
    first, hyper = base.layers[0], HyperConnections(3, 20, RMSNorm(1e-5))
    memory = NgramMemory(
        (12_345_678_901, 98_765_432_109, 5_555_555_555), (23, 29, 31, 37), 128, 10, end=5, streams=3,
        inputs=base.embedding.width, length=3, eps=1e-4,
    )  # fmt: skip
    gated = replace(first.attention, output_gate=True, qk_norm=HeadNorm(RMSNorm(1e-6)), pre=None)
    chosen = PooledAttention(gated, 17, 20, 3, 2, 1e-3)
    layers = Layer(memory, NoMlp(), hyper=hyper), Layer(chosen, replace(first.mlp, pre=None), hyper=hyper)
    return replace(base, stack=Stack(layers, None))


def latents(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder of DeepSeek's form: latent attention, with biases and a latent of queries, which are scaled
    by their position, in one layer, and experts in groups."""
    base = llama(width=48, vocabulary=vocabulary, context=context)
    first, norm = base.layers[0], RMSNorm(1e-5)
    attention = LatentAttention(3, 20, 8, 12, Rope(1e4, 6, interleaved=True), pre=norm)
    wide = LatentAttention(2, 18, 10, 14, Rope(1e4, 4), 30, True, 1e-3, 0.3, pre=norm)
    wide = replace(wide, query_scale=QueryScale(0.5, 3))
    experts = MoE(
        6,
        2,
        24,
        "silu",
        "sigmoid",
        scale=2.5,
        choice_bias=True,
        shared=32,
        groups=ExpertGroups(3, 2),
        pre=norm,
    )
    return of_layers(base, (replace(first, attention=attention), replace(first, attention=wide, mlp=experts)))


def reader(base: Decoder) -> Encoder:
    """The layers of a decoder over a whole text."""
    return Encoder(base.embedding, replace(base.stack, causal=True), Pool("last"), base.context)


def reading_latents() -> Encoder:
    """The layers of `latents` over a whole text, without a cache."""
    return reader(latents())


def indexed(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder of DeepSeek-V3.2's form, with experts after the first layer. Its indexers choose 3 or 6
    tokens, are rotated in pairs of both kinds, and read x or the latent of queries. The last layer shares the
    indexer before it and has no positions."""
    base = latents(context, vocabulary)
    first, second = base.layers
    wide = replace(second.attention, indexer=Indexer(4, 10, 6))
    narrow = replace(
        wide,
        query_rank=None,
        bias=False,
        position=Rope(1e4, 6, True, factors=(0.5, 1.25, 2.0)),
        indexer=Indexer(5, 6, 3, True),
        query_scale=None,
        log_scale=True,
    )
    sharing = replace(wide, indexer=SharedIndexer(6), position=None, shared_size=0)
    layers = (
        replace(first, attention=narrow),
        replace(second, attention=wide),
        replace(first, attention=sharing),
    )
    return of_layers(base, layers)


def indexed_blocks(context: int = 128, vocabulary: int = 97) -> Decoder:
    """A decoder of MiniMax-M3's form: indexers that choose 2 or 3 blocks for each key head around plain
    attention, and clamped mlps, experts and a shared expert."""
    base = llama(layers=3, width=44, vocabulary=vocabulary, qk_norm=True, context=context)
    first, norm = base.layers[0], RMSNorm(1e-5)
    assert isinstance(first.mlp, Gated)
    wide = IndexedAttention(6, 2, 12, Rope(1e4, 8), BlockIndexer(10, 4, 2), pre=norm)
    narrow = IndexedAttention(3, 3, 16, Rope(1e4, 6, True), BlockIndexer(6, 3, 3, 2), 1e-3, pre=norm)
    clamped = SwiGLUOAI(1.3, 0.7)
    experts = MoE(4, 2, 24, clamped, "sigmoid", scale=2.5, choice_bias=True, shared=20, pre=norm)
    layers = (
        replace(first, attention=wide, mlp=replace(first.mlp, activation=clamped)),
        replace(first, mlp=experts),
        replace(first, attention=narrow, mlp=experts),
    )
    return of_layers(base, layers)


def added_positions(context: int = 128) -> Decoder:
    """A decoder with learned positions after a norm, ALiBi in one layer, relative biases in two, one of its
    own, and a dense map before the output table."""
    base = llama(layers=3, head_size=12, plain=True, bias=True, context=context)
    first, norm = base.layers[0], LayerNorm(1e-5)
    kinds = Alibi(scale=0.3), RelativeBias(8, 20), RelativeBias(6, 9, shared=False)
    layers = with_mixers(base, *(replace(first.attention, position=kind) for kind in kinds)).layers
    stack = Stack(layers, norm, Learned(context, 2), norm, norm_before_positions=True)
    dense = Dense("gelu", norm=norm)
    return replace(base, stack=stack, head=LM(tied=True, scale=0.5, bias=True, dense=dense))


def mixture(vocabulary: int = 97) -> Decoder:
    """A decoder with two mixtures of experts: Mixtral's form, and one with every option of other families."""
    base = llama(width=40, vocabulary=vocabulary)
    first, norm = base.layers[0], RMSNorm(1e-5)
    every = MoE(
        4, 3, 28, "gelu", score="sigmoid", renormalize=False, scale=2.5, choice_bias=True, shared=36,
        shared_gate=True, pre=norm,
    )  # fmt: skip
    return of_layers(base, (replace(first, mlp=each) for each in (MoE(3, 2, 24, "silu", pre=norm), every)))


def sinks(head_size: int = 16) -> Decoder:
    """A decoder of gpt-oss' form: sinks in the softmax, a window in every other layer, clamped experts with
    biases."""
    base = llama(head_size=head_size, tied=False, bias=True)
    first, norm = base.layers[0], RMSNorm(1e-5)
    experts = MoE(4, 2, 24, SwiGLUOAI(limit=0.7), router_bias=True, expert_bias=True, pre=norm)
    attention = replace(first.attention, sink_logits=True)
    layers = (
        replace(first, attention=replace(attention, mask=Window(3)), mlp=experts),
        replace(first, attention=attention, mlp=experts),
    )
    return of_layers(base, layers)


def rare(head_size: int = 16) -> Decoder:
    """A decoder with options that few families use: a projected embedding, two kinds of head norms, one after
    the rotation, scaled queries, clipping, a residual at the norm, parallel sublayers on one norm, norms
    without weights."""
    base = llama(layers=3, head_size=head_size, width=40, tied=False)
    one, bare, layer = base.layers[0], LayerNorm(1e-5, False, False), LayerNorm(1e-5, False)
    over_each, over_all = HeadNorm(layer, "each", rotated=True), HeadNorm(RMSNorm(1e-5), "all")
    layers = (
        Layer(replace(one.attention, qk_norm=over_each, clip=1.5, pre=layer), one.mlp, scale=0.3),
        Layer(
            replace(one.attention, qk_norm=over_all, query_scale=QueryScale(0.5, 3)),
            replace(one.mlp, activation="mish"),
            residual="norm",
        ),
        Layer(replace(one.attention, pre=bare), replace(one.mlp, pre=None), parallel=True),
    )
    embedding = replace(base.embedding, projection=EmbeddingProjection(32, bias=True), scale=2.0)
    return replace(base, embedding=embedding, stack=replace(base.stack, layers=layers, final_norm=bare))


WORDS = MaskedLM(tied=True, dense=Dense("tanh", norm=LayerNorm(1e-5)))
LEARNED = Learned(32)


def encoder(
    *,
    layers: int = 2,
    vocabulary: int = 97,
    width: int = 48,
    heads: int = 6,
    head_size: int = 8,
    mlp: int = 80,
    positions: Learned | Sinusoidal | None = LEARNED,
    head: ReadingHead = WORDS,
) -> Encoder:
    """An encoder of BERT's form: token types, post-norm, biases everywhere."""
    norm = LayerNorm(1e-5)
    attention = Attention(heads, heads, head_size, qkv_bias=True, out_bias=True, after=norm)
    stack = Stack((Layer(attention, Plain(mlp, "relu", after=norm)),) * layers, None, positions, norm)
    return Encoder(Embedding(vocabulary, width, token_types=2), stack, head, 32)


def distant(
    *, head: ReadingHead = WORDS, log_until: int | None = 20, shared: bool = True, vocabulary: int = 97
) -> Encoder:
    """An encoder of DeBERTa's form: v2's, where distances share vectors and matrices, or v1's."""
    norm = LayerNorm(1e-5)
    distances = Distances(8, log_until, norm if shared else None)
    attention = DisentangledAttention(6, 8, distances, shared=shared, position_bias=shared, after=norm)
    layer = Layer(attention, Plain(80, "gelu", after=norm))
    first = replace(layer, conv=NeighbourConv(1, "tanh", norm)) if shared else layer
    stack = Stack((first, layer), None, first_norm=norm)
    return Encoder(Embedding(vocabulary, 48), stack, head, 32)


def windowed(
    *, head: ReadingHead = WORDS, spread: GlobalTokens | None = None, vocabulary: int = 97
) -> Encoder:
    """An encoder of Longformer's form, with a window of its own in each layer."""
    norm = LayerNorm(1e-5)
    attention = LongformerAttention(6, 8, 2, spread, after=norm)
    layer = Layer(attention, Plain(80, "gelu", after=norm))
    second = replace(layer, attention=replace(attention, reach=1))
    stack = Stack((layer, second), None, Learned(32), norm)
    return Encoder(Embedding(vocabulary, 48), stack, head, 32)


def in_blocks(*, head: ReadingHead = WORDS, vocabulary: int = 97) -> Encoder:
    """An encoder of BigBird's form, with blocks of two tokens for texts of more than ten, or of fourteen."""
    norm = LayerNorm(1e-5)
    attention = Attention(6, 6, 8, mask=BigBirdBlocks(2, 0), qkv_bias=True, out_bias=True, after=norm)
    layer = Layer(attention, Plain(80, "gelu", after=norm))
    second = replace(layer, attention=replace(attention, mask=BigBirdBlocks(2, 1)))
    stack = Stack((layer, second), None, Learned(64), norm)
    return Encoder(Embedding(vocabulary, 48), stack, head, 64)


def near_and_far(*, head: ReadingHead = WORDS, vocabulary: int = 97) -> Encoder:
    """An encoder of ConvBERT's form, with kernels of five and of three tokens."""
    norm = LayerNorm(1e-5)
    layers = (Layer(ConvBertAttention(3, 8, n, after=norm), Plain(64, "gelu", after=norm)) for n in (2, 1))
    return Encoder(Embedding(vocabulary, 48), Stack(tuple(layers), None, Learned(32), norm), head, 32)


def narrow(*, head: ReadingHead | None = None, vocabulary: int = 97) -> Encoder:
    """An encoder of MobileBERT's form: one layer with queries of their own, one with norms."""
    norms = Affine(), LayerNorm(1e-5)
    mlps = [tuple(Plain(width, "relu", after=norm) for width in (40, 24)) for norm in norms]
    layers = tuple(
        Layer(MobileBertBottleneck(3, 8, own, norm, *(norm == Affine(),) * 2, after=norm), NoMlp())
        for own, norm in zip(mlps, norms, strict=True)
    )
    embedding = Embedding(vocabulary, 48, projection=EmbeddingProjection(16, bias=True, trigram=True))
    words = MaskedLM(tied=True, dense=Dense("relu", norm=norms[1]), further=32)
    return Encoder(embedding, Stack(layers, None, Learned(32), Affine()), head or words, 32)


def relative(*, head: ReadingHead = WORDS, clamp: int | None = None, vocabulary: int = 97) -> Encoder:
    """An encoder of XLNet's form."""
    norm = LayerNorm(1e-5)
    layer = Layer(XLNetAttention(6, 8, clamp, after=norm), Plain(64, "gelu", after=norm))
    return Encoder(Embedding(vocabulary, 48, token_types=3), Stack((layer,) * 2, None), head, 64)


def summarized(
    *, head: ReadingHead | None = None, size: int | None = 2, vocabulary: int = 97
) -> Encoder | EncoderDecoder:
    """The tiny T5 with LongT5's encoder, or that encoder alone with a head."""
    base = encoder_decoder(vocabulary=vocabulary)
    (layer, *_) = base.encoder.layers
    a = LongT5Attention(6, 8, 2, RelativeBias(8, 20), size, 1e-5, pre=layer.attention.pre)
    encoder = replace(base.encoder, layers=(replace(layer, attention=a),) * 2)
    if head is not None:
        return Encoder(base.embedding, encoder, head, 32)
    return replace(base, encoder=encoder, encoder_context=64)


def encoder_decoder(*, layers: int = 2, vocabulary: int = 97, width: int = 48) -> EncoderDecoder:
    """An encoder and a decoder of T5's form, with different depths."""
    norm = RMSNorm(1e-5)
    attention = Attention(6, 6, 8, position=RelativeBias(8, 20), scale=1.0, pre=norm)
    mlp = Plain(80, "relu", bias=False, pre=norm)
    reading = Layer(attention, mlp, cross=Attention(6, 6, 8, scale=1.0, pre=norm))
    encoder = Stack((Layer(attention, mlp),) * (layers + 1), norm)
    decoder = Stack((reading,) * layers, norm)
    return EncoderDecoder(Embedding(vocabulary, width), encoder, decoder, LM(tied=True), 32)


def hearing(*, vocabulary: int = 97) -> EncoderDecoder:
    """An encoder of sound and a decoder of Whisper's form, which reads 10 frames of 6 bands."""
    norm = LayerNorm(1e-5)
    attention = Attention(6, 6, 8, qkv_bias=True, out_bias=True, pre=norm)
    layer = Layer(attention, Plain(80, "gelu", pre=norm))
    encoder = Stack((layer,) * 2, norm, Learned(5), stem=ConvStem(6))
    decoder = Stack((replace(layer, cross=attention),) * 3, norm, Learned(32))
    embedding, head = Embedding(vocabulary, 48), LM(tied=True)
    return EncoderDecoder(embedding, encoder, decoder, head, context=32, encoder_context=5)


def spelling(*, normalized: Literal["first", "each"] = "first", before: bool = False) -> Encoder:
    """An encoder of samples of wav2vec 2.0's form, which makes a vector of every 6 samples."""
    norm = LayerNorm(1e-5)
    around: dict[str, Any] = {"pre" if before else "after": norm}
    attention = Attention(6, 6, 8, qkv_bias=True, out_bias=True, **around)
    convolutions = Convolution(10, 5, 3), Convolution(14, 3, 2)
    stack = Stack(
        (Layer(attention, Plain(80, "gelu", **around)),) * 2,
        norm if before else None,
        ConvPositions(4, 3, "gelu"),
        None if before else norm,
        stem=WaveStem(convolutions, normalized, "gelu", bias=before, norm=norm),
    )
    return Encoder(Embedding(97, 48), stack, CTC(), context=32)


def writing() -> EncoderDecoder:
    """An encoder of samples and a decoder of Moonshine's form, which makes a vector of every 6 samples."""
    norm = LayerNorm(1e-5, bias=False)
    cross = Attention(6, 6, 8, pre=norm)
    attention = replace(cross, position=Rope(100.0, 6, interleaved=True))
    stem = MoonshineStem((Convolution(10, 5, 3), Convolution(48, 3, 2)))
    encoder = Stack((Layer(attention, Plain(80, "gelu", pre=norm)),) * 2, norm, stem=stem)
    reading = Layer(attention, Gated(56, "silu", bias=True, pre=norm), cross=cross)
    decoder = Stack((reading,) * 3, norm)
    return EncoderDecoder(Embedding(97, 48), encoder, decoder, LM(tied=True), 32, encoder_context=40)


def reading_decoder() -> EncoderDecoder:
    """An encoder, and a decoder that reads its text again, for a head (BART's way to classify)."""
    base = encoder_decoder()
    assert isinstance(base.decoder, Stack)
    reader = DecoderReader(replace(base.decoder, causal=True), start=3)
    return replace(base, decoder=reader, head=Classify(3, pooling="last"))


def rotary_encoder_decoder(context: int = 128) -> EncoderDecoder:
    """An encoder with windows and a decoder; fused operators can be used for all of their attentions."""
    base = llama(layers=2, bias=True, context=context)
    layer, norm = base.layers[0], LayerNorm(1e-5)
    reading = replace(layer, cross=Attention(4, 4, 8, qkv_bias=True, out_bias=True, pre=norm))
    windowed = replace(layer.attention, kv_heads=6, mask=Window(4))
    encoder = Stack((replace(layer, attention=windowed),) * 3, norm)
    decoder = replace(base.stack, layers=(reading,) * 2)
    return EncoderDecoder(base.embedding, encoder, decoder, base.head, base.context)


def merging(context: int = 128) -> EncoderDecoder:
    """T5Gemma 2's form: a decoder whose attention also reads the encoder's keys, an encoder with windows that
    reach farther to one side, and a token with a vector of its own."""
    base, norm = rotary_encoder_decoder(context), HeadNorm(RMSNorm(1e-6))
    assert isinstance(base.decoder, Stack)
    (layer, *_), (reading, *_) = base.encoder.layers, base.decoder.layers
    uneven = replace(layer.attention, mask=Window(2, 4))
    keys = Attention(4, 2, 8, qkv_bias=True, qk_norm=norm)
    attention = replace(
        reading.attention, heads=4, kv_heads=2, head_size=8, qk_norm=norm, position=Rope(1e3, 8)
    )
    merged = replace(reading, attention=attention, cross=keys, merged=True)
    windowed = replace(merged, attention=replace(attention, mask=Window(3)))
    return replace(
        base,
        embedding=replace(base.embedding, apart=5),
        encoder=replace(base.encoder, layers=(replace(layer, attention=uneven), layer, layer)),
        decoder=replace(base.decoder, layers=(windowed, merged)),
    )


def positions(head_size: int) -> list[tuple[Position | None, Learned | Sinusoidal | None]]:
    """One of each kind of positions: (of an attention, of its stack)."""
    return [
        (Rope(10.0, head_size), None),
        (Alibi(), None),
        (RelativeBias(8, 20), None),
        (RelativeBias(8, 20, shared=False), None),
        (None, Learned(32)),
        (None, Sinusoidal()),
        (None, Sinusoidal(offset=2)),
    ]


def with_module(config: Decoder) -> Decoder:
    """The decoder with a module that predicts further tokens, whose layer is its last one with attention."""
    norm = config.stack.final_norm
    assert isinstance(norm, RMSNorm)
    attending = [layer for layer in config.layers if isinstance(layer.attention, Attention | LatentAttention)]
    return replace(config, mtp=MTP(attending[-1], replace(norm, eps=0.03)))


MODULES = {
    "attention": lambda: with_module(llama(window=5, qk_norm=True, bias=True)),
    "latents": lambda: with_module(latents()),
    "deltas": lambda: with_module(gated_deltas()),
    "experts": lambda: with_module(mixture()),
    "apart": lambda: with_module(replace(llama(tied=False), embedding=Embedding(97, 48, scale=3.0))),
}


def weights(config: Config, seed: int = 0, dtype: type = np.float32) -> dict:
    """Random weights of a Config."""
    return random_weights(config, np.random.default_rng(seed), dtype)
