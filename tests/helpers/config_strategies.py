"""Strategies for any small Config: every variant of every union, wherever it is allowed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from hypothesis import strategies as st
from tfm.refimpl.config import (
    LM,
    XIELU,
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
    Chunked,
    Classify,
    Decoder,
    DecoderReader,
    Dense,
    Distances,
    DynamicNTK,
    Embedding,
    EmbeddingProjection,
    Encoder,
    EncoderDecoder,
    ExpertGroups,
    FeatureMap,
    FirstToken,
    FullAttention,
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
    Mlp,
    MoE,
    NeighbourConv,
    NoMlp,
    Norm,
    PerLayerEmbedding,
    PerLayerInput,
    Plain,
    Pool,
    Position,
    ProportionalScaling,
    QueryScale,
    QuestionAnswering,
    QuestionTokens,
    ReadingHead,
    RelativeBias,
    RMSNorm,
    Rope,
    Scaling,
    Sinusoidal,
    Stack,
    SwiGLUOAI,
    SwiGLUStep,
    Tag,
    TokenDropout,
    TokenMixer,
    Window,
    Yarn,
)
from tfm.refimpl.config.norms import Norms
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

CONTEXT = 32

scales, shares = st.sampled_from((None, 3.0)), st.sampled_from((None, 0.3))
eps = st.sampled_from((1e-6, 1e-2))
some_norms: st.SearchStrategy[Norm] = st.one_of(
    st.builds(RMSNorm, eps), st.builds(LayerNorm, eps, st.booleans(), st.booleans()), st.just(Affine())
)
norms: st.SearchStrategy[Norm | None] = st.one_of(st.none(), some_norms)
around = dict.fromkeys(Norms.__annotations__, norms)
head_norms = st.builds(
    HeadNorm,
    st.one_of(st.builds(RMSNorm, eps), st.builds(LayerNorm, eps, st.just(False))),
    st.sampled_from(("head", "each", "all")),
)
kinds = st.sampled_from(get_args(Activation))
limits = st.sampled_from((7.0, 0.3))
clamped = st.builds(SwiGLUOAI, st.just(1.702), limits) | st.builds(SwiGLUStep, limits)


@st.composite
def mixtures(draw: st.DrawFn) -> MoE:
    """A mixture of experts, with and without what all tokens share."""
    experts = draw(st.integers(1, 4))
    shared = draw(st.sampled_from((None, 1, 5)))
    limits = (ExpertGroups(), ExpertGroups(2, 1, "max"), ExpertGroups(2, 1), ExpertGroups(2, 2))
    groups = draw(st.sampled_from(limits[: 4 if experts == 4 else 1]))
    identities = draw(st.sampled_from((0, 0, 2))) if groups.count == 1 else 0
    return MoE(
        experts=experts,
        top=draw(st.integers(1, experts // groups.count * groups.top + identities)),
        identities=identities,
        width=draw(st.integers(1, 9)),
        activation=draw(st.one_of(kinds, clamped)),
        score=draw(st.sampled_from(("softmax", "sigmoid"))),
        renormalize=draw(st.booleans()),
        scale=draw(st.sampled_from((None, 2.5))),
        choice_bias=draw(st.booleans()),
        router_bias=draw(st.booleans()),
        expert_bias=draw(st.booleans()),
        shared=shared,
        shared_gate=shared is not None and draw(st.booleans()),
        groups=groups,
        weighs="output" if identities else draw(st.sampled_from(("output", "input"))),
        sum_eps=draw(st.sampled_from((None, 0.1))),
        average=shared is not None and draw(st.booleans()),
        shared_activation=None if shared is None else draw(st.none() | clamped),
        **{name: draw(norms) for name in around},
    )


def narrowed(mixture: MoE) -> MoE:
    """The mixture with experts without gates between the maps of a latent, and biases of what all take."""
    activation = mixture.activation if isinstance(mixture.activation, str) else "relu_squared"
    changed = replace(mixture, activation=activation, shared_activation=None)
    return replace(without_identities(changed), gated=False, latent=5, shared_bias=True)


def without_identities(mixture: MoE) -> MoE:
    return replace(mixture, identities=0, top=min(mixture.top, mixture.experts))


def bounded(mlp: Mlp) -> Mlp:
    """Squared activations follow a norm: else they overflow float32 after a few layers."""
    squares = not isinstance(mlp, NoMlp) and mlp.activation in ("relu_squared", XIELU())
    grows = squares and mlp.pre is None
    return replace(mlp, pre=RMSNorm(1e-2)) if grows else mlp


def down_bias(mlp: Gated) -> Gated:
    """The mlp with a bias of its last map alone."""
    return replace(mlp, bias=False, down_bias=True)


gated = st.builds(Gated, st.integers(1, 9), kinds, st.booleans(), **around)
mlps = st.one_of(
    mixtures(),
    gated,
    gated.map(down_bias),
    st.builds(Plain, st.integers(1, 9), kinds | st.just(XIELU()), st.booleans(), **around),
    st.builds(NoMlp),
    mixtures().map(narrowed),
    gated.map(lambda mlp: replace(mlp, down_norm=RMSNorm(1e-2))),
).map(bounded)
originals = st.sampled_from((8, 64))  # below and above the context


def scalings(pairs: int) -> st.SearchStrategy[Scaling | None]:
    divisors = st.lists(st.sampled_from((1.0, 1.5, 4.0)), min_size=pairs, max_size=pairs).map(tuple)
    magnitudes = st.sampled_from((None, 1.25))
    return st.one_of(
        st.none(),
        st.builds(LinearScaling, st.sampled_from((2.0, 8.0))),
        st.builds(DynamicNTK, st.sampled_from((1.0, 4.0)), originals),
        st.builds(
            Yarn,
            st.just(4.0),
            originals,
            st.sampled_from((32.0, 2.0)),
            st.just(1.0),
            st.booleans(),
            magnitudes,
        ),
        st.builds(LongRope, divisors, divisors, originals, st.sampled_from((1.0, 1.25))),
        st.builds(Llama3Scaling, st.just(8.0), st.just(1.0), st.just(4.0), originals),
        st.builds(ProportionalScaling, st.integers(1, pairs), st.sampled_from((1.0, 4.0))),
    )


@st.composite
def positions(draw: st.DrawFn, size: int, shared: RelativeBias | None) -> Position | None:
    """A position of an attention with heads of this size; `shared` is what its stack's layers share."""
    kind = draw(st.sampled_from(("none", "alibi", "bias", "rope")))
    if kind == "rope" and size > 1:
        pairs = draw(st.integers(1, size // 2))
        return Rope(draw(st.sampled_from((10.0, 1e4))), 2 * pairs, draw(st.booleans()), draw(scalings(pairs)))
    if kind == "alibi":
        return Alibi(draw(st.sampled_from((8.0, 4.0))), draw(st.sampled_from((1.0, 0.3))))
    return shared if kind == "bias" else None


@st.composite
def attentions(draw: st.DrawFn, shared: RelativeBias | None, heads: int, cross: bool = False) -> Attention:
    """An attention; if it shares a table of biases, it has `heads` heads."""
    size = draw(st.integers(1, 6))
    position = None if cross else draw(positions(size, shared))
    if position != shared or position is None:
        heads = draw(st.integers(1, 3)) * draw(st.integers(1, 2))
    head_norm = None if cross else draw(st.one_of(st.none(), head_norms))
    if head_norm is not None and isinstance(position, Rope):
        head_norm = replace(head_norm, rotated=draw(st.booleans()))
        if head_norm.rotated and isinstance(head_norm.norm, RMSNorm) and draw(st.booleans()):
            head_norm = replace(head_norm, over="head", weight=False)
    kv_heads = draw(st.sampled_from([g for g in range(1, heads + 1) if heads % g == 0]))
    small = st.integers(0, 2)
    masks = st.one_of(
        st.just(FullAttention()),
        st.builds(Window, st.integers(1, 4)),
        st.builds(BlockSparse, st.integers(1, 3), small, small),
        st.builds(Chunked, st.integers(1, 4)),
    )
    drawn = Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_size=size,
        position=position,
        mask=FullAttention() if cross else draw(masks),
        qkv_bias=draw(st.booleans()),
        out_bias=draw(st.booleans()),
        qk_norm=head_norm,
        clip=None if cross else draw(st.sampled_from((None, 0.5))),
        scale=draw(st.sampled_from((None, 0.7))),
        softcap=draw(st.sampled_from((None, 3.0))),
        sink_logits=not cross and draw(st.booleans()),
        output_gate=not cross and draw(st.booleans()),
        query_scale=None
        if cross
        else draw(st.sampled_from((None, QueryScale(0.5, 3), QueryScale(0.5, 2, 1)))),
        value_norm=None if cross else draw(st.sampled_from((None, RMSNorm(1e-2)))),
        keys_as_values=not cross and draw(st.sampled_from((False, False, True))),
        head_gate=not cross and draw(st.sampled_from((False, False, True))),
        softplus_gate=not cross and draw(st.booleans()),
        value_scale=None if cross else draw(st.sampled_from((None, 0.7))),
        **{name: draw(norms) for name in around},
    )
    if cross or drawn.output_gate or drawn.head_gate:
        return drawn
    return replace(drawn, out_norm=draw(st.sampled_from((None, RMSNorm(1e-2)))))


linear_attentions = st.builds(
    lambda kv_heads, share, *settings, **own: LinearAttention(kv_heads * share, kv_heads, *settings, **own),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 6),
    st.sampled_from(get_args(FeatureMap)),
    st.booleans(),
    st.booleans(),
    **around,
)
convolutions = st.builds(ShortConv, st.integers(1, 6), st.integers(2, 4), st.booleans(), **around)
gated_deltas = st.builds(
    lambda key_heads, share, *settings, **own: GatedDelta(key_heads * share, key_heads, *settings, **own),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(2, 4),
    st.sampled_from((1e-6, 0.1)),
    st.booleans(),
    st.none() | st.integers(1, 5),
    **around,
)
bounded_deltas = st.builds(
    lambda mixer, bound: replace(mixer, by_channel=True, max_decay=bound),
    gated_deltas,
    st.sampled_from((None, 2.0)),
)
latents = st.builds(
    LatentAttention,
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 4),
    st.builds(Rope, st.just(1e4), st.sampled_from((2, 4)), st.booleans()),
    st.none() | st.integers(1, 5),
    st.booleans(),
    st.sampled_from((1e-6, 1e-2)),
    st.none() | st.just(0.3),
    query_scale=st.sampled_from((None, None, QueryScale(0.5, 3))),
    head_gate=st.booleans(),
    log_scale=st.booleans(),
    **around,
)
lightnings = st.builds(
    Lightning,
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from((1.0, 0.3)),
    st.sampled_from(("silu", "gelu")),
    st.sampled_from((1e-6, 0.1)),
    **around,
)
linear_units = st.builds(
    RgLru,
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(2, 4),
    st.sampled_from(("gelu_tanh", "silu")),
    **around,
)


def shifts(width: int) -> st.SearchStrategy[TokenMixer]:
    """RWKV's two mixers, in a model of this width."""
    return st.one_of(
        *(st.builds(kind, st.integers(1, 6), st.just(width), **around) for kind in (TimeMix, ChannelMix))
    )


mamba2s = st.builds(
    lambda groups, share, *settings, **own: Mamba2(groups * share, groups, *settings, **own),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(2, 4),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(("after_gate", "before_gate", None)),
    st.sampled_from((1e-6, 0.1)),
    **around,
)
mambas = st.builds(
    Mamba,
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(2, 4),
    st.booleans(),
    st.booleans(),
    st.sampled_from(("weighted", "bare", None)),
    st.sampled_from((1e-6, 0.1)),
    **around,
)
shared_blocks = st.builds(
    lambda groups, share, rotated, *others, **norms: SharedBlock(
        Attention(groups * share, groups, 4, Rope(10.0, 4) if rotated else None, pre=RMSNorm(1e-2)),
        *others,
        **norms,
    ),
    st.integers(1, 2),
    st.integers(1, 2),
    st.booleans(),
    st.builds(Gated, st.integers(1, 5), kinds, st.booleans(), pre=st.just(RMSNorm(1e-3))),
    mamba2s.map(lambda mixer: replace(mixer, pre=RMSNorm(1e-2), post=None, after=None)),
    post=norms,
    after=norms,
)
indexed = st.builds(
    lambda mixer, rank, indexer: replace(mixer, query_rank=rank, indexer=indexer),
    latents,
    st.none() | st.integers(1, 5),
    st.builds(Indexer, st.integers(1, 3), st.integers(4, 6), st.integers(1, 4), st.booleans()),
)
indexed_blocks = st.builds(
    lambda groups, share, size, indexer, **own: IndexedAttention(
        groups * share, groups, size, Rope(10.0, 4, size == 5), indexer, **own
    ),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(4, 6),
    st.builds(BlockIndexer, st.integers(4, 6), st.integers(1, 3), st.integers(1, 2), st.integers(0, 1)),
    norm_eps=st.sampled_from((1e-6, 1e-2)),
    **around,
)
unrotated = st.builds(
    lambda mixer, size: replace(mixer, position=None, shared_size=size), latents, st.integers(0, 3)
)
lstms = st.builds(LSTM, st.integers(1, 6), st.booleans(), st.booleans(), **around)


@st.composite
def mixers(draw: st.DrawFn, shared: RelativeBias | None, heads: int, width: int) -> TokenMixer:
    """What a decoder's layer may mix tokens by: attention in half of the layers."""
    attention = attentions(shared, heads)
    states = linear_attentions, lstms, convolutions, gated_deltas, bounded_deltas, lightnings, linear_units
    others = latents, mamba2s, mambas, indexed, indexed_blocks, unrotated, shared_blocks, shifts(width)
    mixers = *states, *others
    return draw(st.one_of(attention, attention, *mixers))


@st.composite
def stacks(
    draw: st.DrawFn, *, width: int, crossed: bool = False, reads: bool = False, decodes: int = 0
) -> Stack:
    """A stack whose positions have this width. With `crossed` its layers have cross-attention; with `reads`
    it may be causal; with `decodes`, the width of its layers, it may have recurrences."""
    shared = draw(st.one_of(st.none(), st.just(RelativeBias(6, 9))))
    heads = draw(st.integers(1, 3))
    layers = []
    for _ in range(draw(st.integers(1, 2))):
        cross = draw(attentions(None, heads, cross=True)) if crossed else None
        parallel = not crossed and draw(st.booleans())
        residual = "input" if parallel else draw(st.sampled_from(("input", "norm")))
        mixer = draw(mixers(shared, heads, decodes) if decodes else attentions(shared, heads))
        mlp = draw(mlps)
        parallel = parallel and not isinstance(mlp, NoMlp)
        scalar = draw(st.sampled_from((False, False, True)))
        layers.append(Layer(mixer, mlp, parallel, cross, residual, draw(shares), scalar=scalar))
    places = [st.none(), st.builds(Learned, st.just(CONTEXT), st.sampled_from((0, 2)))]
    if width % 2 == 0:
        places.append(st.builds(Sinusoidal, st.sampled_from((10.0, 1e4)), st.booleans()))
    stack = Stack(
        tuple(layers), draw(norms), draw(st.one_of(places)), draw(norms), reads and draw(st.booleans())
    )
    ordered = None not in (stack.first_norm, stack.positions)
    return replace(stack, norm_before_positions=ordered and draw(st.booleans()))


some_denses = st.builds(
    Dense, st.one_of(st.none(), kinds), st.booleans(), norms, st.sampled_from((None, 1, 5))
)
denses = st.one_of(st.none(), some_denses)
lms = st.builds(LM, st.booleans(), st.sampled_from((None, 2.0)), st.sampled_from((None, 0.5)), st.booleans())


@st.composite
def lm_heads(draw: st.DrawFn, embedding: Embedding) -> LM:
    """A head of a decoder; every fourth has clusters of rare ids."""
    if draw(st.integers(0, 3)):
        head, dense = draw(lms), draw(denses)
        inner = embedding.projection
        if head.tied and dense is not None:
            dense = replace(dense, width=embedding.width if inner is None else inner.width)
        return replace(head, dense=dense)
    cutoffs = draw(st.sets(st.integers(1, embedding.vocabulary - 1), min_size=1, max_size=3).map(sorted))
    adaptive = AdaptiveSoftmax(tuple(cutoffs), draw(st.sampled_from((1.0, 2.0))))
    inner = embedding.projection
    if not adaptive.width(len(cutoffs) - 1, embedding.width if inner is None else inner.width):
        adaptive = replace(adaptive, divisor=1.0)
    return LM(False, bias=draw(st.booleans()), adaptive=adaptive)


projections = st.one_of(
    st.none(), st.builds(EmbeddingProjection, st.integers(1, 8), st.booleans(), st.booleans())
)
poolings = st.sampled_from(("first", "last", "mean", "max"))
denses_of_sentences = st.builds(
    Dense, st.one_of(st.none(), kinds), st.booleans(), st.none(), st.sampled_from((None, 1, 5))
)
heads: st.SearchStrategy[ReadingHead] = st.one_of(
    st.builds(MaskedLM, st.booleans(), denses, st.booleans()),
    st.builds(Classify, st.integers(1, 4), poolings, denses, st.booleans(), late=st.booleans()),
    st.builds(Tag, st.integers(1, 4), denses, st.booleans()),
    st.builds(QuestionAnswering, denses, st.booleans()),
    st.builds(Pool, poolings, denses, st.booleans(), st.lists(denses_of_sentences, max_size=2).map(tuple)),
    st.builds(
        QuestionAnswering,
        denses,
        st.booleans(),
        st.builds(Plain, st.integers(1, 9), kinds, st.booleans(), after=some_norms),
    ),
)


@st.composite
def fitting(draw: st.DrawFn, embedding: Embedding) -> ReadingHead:
    """A head of an encoder; before a tied table, vectors have the table's width."""
    head, inner = draw(heads), embedding.projection
    tables = embedding.width if inner is None else inner.width
    if isinstance(head, MaskedLM) and draw(st.booleans()):
        further, dense = draw(st.integers(1, 4)), head.dense or draw(some_denses)
        return replace(head, dense=replace(dense, width=tables + further), further=further)
    if isinstance(head, MaskedLM) and head.tied:
        dense = head.dense if tables == embedding.width or head.dense else draw(some_denses)
        head = replace(head, dense=dense and replace(dense, width=tables))
    return head


@st.composite
def configs(draw: st.DrawFn) -> Decoder:
    """A decoder alone."""
    width, inner = draw(st.integers(1, 8)), draw(projections)
    embedding = Embedding(draw(st.integers(2, 12)), width, draw(scales), projection=inner)
    stack = draw(stacks(width=entry(embedding), decodes=embedding.width))
    head = draw(lm_heads(embedding))
    return draw(sharing(Decoder(embedding, draw(multiplied(stack)), head, CONTEXT)))


@st.composite
def sharing(draw: st.DrawFn, config: Decoder) -> Decoder:
    """The decoder as it is, with one more layer that reads the keys and values of another, or with vectors of
    the tokens for each layer."""
    embedding, layers = config.embedding, config.layers
    sources = [
        i
        for i, layer in enumerate(layers)
        if isinstance(a := layer.attention, Attention)
        and layer.beside is None
        and (a.position is None or isinstance(a.position, Rope))
    ]
    if draw(st.sampled_from((True, False))):
        if not sources:
            plain = draw(attentions(None, 2))
            plain = replace(plain, position=plain.position if isinstance(plain.position, Rope) else None)
            sources, layers = [len(layers)], (*layers, Layer(plain, draw(gated)))
        at = draw(st.sampled_from(sources))
        source = layers[at].attention
        assert isinstance(source, Attention)
        reading = replace(
            source,
            heads=source.kv_heads * draw(st.integers(1, 3)),
            kv_layer=at,
            value_norm=None,
            keys_as_values=False,
            pre=draw(norms),
        )
        layers = (*layers, replace(layers[at], attention=reading))
    if draw(st.sampled_from((False, False, True))):
        own = PerLayerInput(draw(st.integers(1, 4)), draw(kinds), draw(norms))
        layers = tuple(replace(layer, per_layer=own) for layer in layers)
        table = PerLayerEmbedding(draw(st.integers(1, embedding.vocabulary)), RMSNorm(draw(eps)))
        embedding = replace(embedding, per_layer=table)
    if draw(st.booleans()):
        layers = tuple(map(apart, layers))
    several = draw(st.sampled_from(("one", "one", "alternating", "hyper-connected")))
    if several == "alternating":
        layers = draw(in_streams(layers))
    if several == "hyper-connected":
        layers = draw(hyper_connected(layers, config.embedding))
        embedding = replace(embedding, per_layer=None)
    return replace(config, embedding=embedding, stack=replace(config.stack, layers=layers))


@st.composite
def in_streams(draw: st.DrawFn, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layers around one of several streams of a token, or with learned residuals alone; gated mlps may be
    sparse."""
    count, norm = draw(st.sampled_from((2, 3))), RMSNorm(draw(eps))
    altup = draw(st.sampled_from((AltUp(count, 0, norm), AltUp(count, count - 1, norm), None)))

    def change(layer: Layer) -> Layer:
        if isinstance(layer.mlp, Gated):
            layer = replace(layer, mlp=replace(layer.mlp, sparsity=draw(st.sampled_from((0.6, None)))))
        if layer.per_layer is not None:
            layer = replace(layer, per_layer=replace(layer.per_layer, scaled=draw(st.booleans())))
        laurel = draw(st.sampled_from((Laurel(3, norm), None)))
        return replace(layer, laurel=laurel, altup=altup)

    return tuple(map(change, layers))


@st.composite
def memories(draw: st.DrawFn, embedding: Embedding, streams: int) -> NgramMemory:
    """A memory of n-grams with one or two heads for each length."""
    longest, heads = draw(st.sampled_from((2, 3, 4))), draw(st.sampled_from((1, 2)))
    primes = tuple(draw(st.lists(st.integers(1, 9), min_size=(n := (longest - 1) * heads), max_size=n)))
    factors = st.lists(st.integers(1, 2**58), min_size=longest, max_size=longest)
    return NgramMemory(
        tuple(draw(factors)),
        primes,
        sum(primes) + draw(st.integers(0, 2)),
        draw(st.integers(1, 3)),
        draw(st.integers(0, embedding.vocabulary - 1)),
        streams,
        embedding.width,
        draw(st.integers(2, 3)),
        draw(eps),
    )


chosen_blocks = st.builds(
    lambda groups, share, gate, norm, bias, *settings: PooledAttention(
        Attention(
            groups * share, groups, 4, Rope(10.0, 2), qkv_bias=bias, out_bias=bias, output_gate=gate,
            qk_norm=norm,
        ),
        *settings,
    ),
    st.integers(1, 2),
    st.integers(1, 2),
    st.booleans(),
    st.sampled_from((HeadNorm(RMSNorm(1e-2)), None)),
    st.booleans(),
    st.integers(1, 3),
    st.integers(2, 4),
    st.integers(1, 3),
    st.integers(1, 2),
    eps,
)  # fmt: skip


@st.composite
def hyper_connected(draw: st.DrawFn, layers: tuple[Layer, ...], embedding: Embedding) -> tuple[Layer, ...]:
    """The layers with hyper-connections in place of plain sums, then a memory of n-grams and attention to
    chosen blocks."""
    hyper = HyperConnections(draw(st.sampled_from((2, 3))), draw(st.integers(1, 3)), RMSNorm(draw(eps)))

    def bare(part: Any) -> Any:
        return part if isinstance(part, NoMlp) else replace(part, post=None, after=None)

    more = Layer(draw(memories(embedding, hyper.streams)), draw(mlps)), Layer(draw(chosen_blocks), draw(mlps))
    return tuple(
        Layer(
            bare(layer.attention), bare(layer.mlp), scale=layer.scale, beside=layer.beside,
            scalar=layer.scalar, hyper=hyper,
        )
        for layer in (*layers, *more)
    )  # fmt: skip


def apart(layer: Layer) -> Layer:
    """The layer; of a mixture all parts have norms, and each expert a factor."""
    if layer.parallel or not isinstance(layer.mlp, MoE) or layer.mlp.latent is not None:
        return layer
    mlp = without_identities(layer.mlp)
    return replace(layer, mlp=replace(mlp, pre=None, own_norms=RMSNorm(1e-2), expert_scale=True))


def postponed(stack: Stack) -> Stack:
    """The stack; each layer adds the experts of the layer before, where that is possible."""

    def change(layer: Layer) -> Layer:
        mlp = layer.mlp
        if layer.parallel or not isinstance(mlp, MoE) or mlp.shared is None or mlp.average:
            return layer
        return replace(layer, mlp=replace(mlp, late=True, shared_gate=False, own_norms=None))

    if stack.streams > 1:
        return stack
    return replace(stack, layers=(*map(change, stack.layers[:-1]), stack.layers[-1]))


@st.composite
def multiplied(draw: st.DrawFn, stack: Stack) -> Stack:
    """The stack with state spaces beside some attention, and numbers that multiply what maps read or give."""

    def change(layer: Layer) -> Layer:
        if isinstance(layer.attention, Attention) and draw(st.booleans()):
            mixer = replace(draw(mamba2s), **dict.fromkeys(around))
            factors = draw(st.sampled_from(((), (0.5, 1.5, 0.75, 1.25, 2.0))))
            beside = Beside(replace(mixer, multipliers=factors), *(draw(shares) for _ in range(4)))
            layer = replace(layer, beside=beside)
        if isinstance(layer.mlp, Gated) and draw(st.booleans()):
            layer = replace(layer, mlp=replace(layer.mlp, gate_scale=draw(shares), scale=draw(shares)))
        return layer

    return replace(stack, layers=tuple(map(change, stack.layers)))


@st.composite
def encoders(draw: st.DrawFn) -> Encoder | EncoderDecoder:
    """An encoder with any head, alone or with a decoder that reads it for the head."""
    width = draw(st.integers(1, 8))
    types, tasks = draw(st.sampled_from((None, 1, 2))), draw(st.sampled_from((None, None, 2)))
    table = draw(st.integers(2, 12))
    embedding = Embedding(table, width, draw(scales), types, draw(projections), task_types=tasks)
    head = draw(fitting(embedding))
    reader = None
    if embedding.projection is None and draw(st.booleans()):
        start = draw(st.none() | st.integers(0, embedding.vocabulary - 1))
        reader = DecoderReader(replace(draw(stacks(width=width, crossed=True)), causal=True), start)
    stack = draw(stacks(width=entry(embedding), reads=True))
    if reader is None:
        if not stack.causal and draw(st.booleans()):
            kinds = (
                disentangled(stack),
                longformer(stack, embedding.vocabulary),
                bigbird(stack),
                longt5(stack),
                convbert(stack),
                bottlenecks(stack),
                *([xlnet(stack, embedding)] if embedding.width % 2 == 0 else []),
            )
            stack = draw(st.one_of(*kinds))
        if not stack.stepwise:
            dropouts = st.none() | st.builds(TokenDropout, st.integers(0, table - 1))
            embedding = replace(embedding, token_dropout=draw(dropouts))
            if (inner := embedding.projection) is not None and not inner.late:
                embedding = replace(embedding, projection=replace(inner, trigram=draw(st.booleans())))
        return draw(vectors(Encoder(embedding, stack, head, CONTEXT)))
    return EncoderDecoder(embedding, stack, reader, head, CONTEXT)


@st.composite
def vectors(draw: st.DrawFn, config: Encoder) -> Encoder:
    """The encoder, where its tokens see each other perhaps with vectors of the tokens for each layer."""
    if config.stack.causal or config.stack.stepwise or draw(st.booleans()):
        return config
    own = PerLayerInput(draw(st.integers(1, 4)), "gelu_tanh", draw(norms))
    layers = tuple(replace(layer, per_layer=own) for layer in config.stack.layers)
    made = PerLayerEmbedding(draw(st.none() | st.integers(1, config.embedding.vocabulary)), RMSNorm(1e-5))
    return replace(
        config,
        embedding=replace(config.embedding, per_layer=made),
        stack=replace(config.stack, layers=layers),
    )


TERMS = st.sampled_from(((True, True), (True, False), (False, True)))


@st.composite
def disentangled(draw: st.DrawFn, stack: Stack) -> Stack:
    """The stack with disentangled attention, and a convolution beside its first layer."""
    norm = draw(st.none() | st.just(LayerNorm(1e-5)))
    distances = draw(
        st.builds(Distances, st.integers(1, 4), norm=st.just(norm))
        | st.builds(Distances, st.sampled_from((2, 4)), st.integers(4, 9), st.just(norm))
    )
    some = st.booleans()

    def distant(layer: Layer) -> Layer:
        a, to_position, to_content = layer.attention, *draw(TERMS)
        mixer = DisentangledAttention(
            draw(st.integers(1, 3)),
            draw(st.integers(1, 5)),
            distances,
            to_position,
            to_content,
            shared=draw(some),
            bias=draw(some),
            position_bias=draw(some),
            **a.norms_around,
        )
        return replace(layer, attention=mixer)

    layers = tuple(map(distant, stack.layers))
    conv = NeighbourConv(draw(st.integers(0, 2)), "tanh", LayerNorm(1e-5))
    if draw(st.booleans()):
        layers = (replace(layers[0], conv=conv), *layers[1:])
    return replace(stack, layers=layers)


@st.composite
def longformer(draw: st.DrawFn, stack: Stack, vocabulary: int) -> Stack:
    """The stack with Longformer's attention."""
    question = st.builds(QuestionTokens, st.integers(0, vocabulary - 1))
    spread = draw(st.none() | st.just(FirstToken()) | question)

    def windowed(layer: Layer) -> Layer:
        a, few = layer.attention, st.integers(1, 3)
        sizes = draw(few), draw(st.integers(1, 5)), draw(few)
        mixer = LongformerAttention(*sizes, spread, **a.norms_around)
        return replace(layer, attention=mixer)

    return replace(stack, layers=tuple(map(windowed, stack.layers)))


@st.composite
def convbert(draw: st.DrawFn, stack: Stack) -> Stack:
    """The stack with ConvBERT's attention in its layers."""
    few = st.integers(1, 3)

    def beside(layer: Layer) -> Layer:
        a = layer.attention
        mixer = ConvBertAttention(draw(few), draw(st.integers(1, 5)), draw(few), **a.norms_around)
        return replace(layer, attention=mixer)

    return replace(stack, layers=tuple(map(beside, stack.layers)))


@st.composite
def bottlenecks(draw: st.DrawFn, stack: Stack) -> Stack:
    """The stack with MobileBERT's bottlenecks in its layers, which may have mlps after them."""
    few, mlps = st.integers(1, 3), st.builds(Plain, st.integers(1, 9), kinds, st.booleans(), after=some_norms)

    def narrow(layer: Layer) -> Layer:
        own = draw(st.lists(mlps, min_size=1, max_size=3).map(tuple))
        settings = (
            draw(few),
            draw(st.integers(1, 5)),
            own,
            draw(some_norms),
            draw(st.booleans()),
            draw(st.booleans()),
        )
        return replace(layer, attention=MobileBertBottleneck(*settings, **layer.attention.norms_around))

    return replace(stack, layers=tuple(map(narrow, stack.layers)))


@st.composite
def longt5(draw: st.DrawFn, stack: Stack) -> Stack:
    """The stack with LongT5's attention in its layers, whose biases they share."""
    few = st.integers(1, 3)
    heads, radius, size = draw(few), draw(few), draw(st.none() | few)
    position = RelativeBias(*draw(st.sampled_from([(4, 3), (8, 9)])))

    def local(layer: Layer) -> Layer:
        a = layer.attention
        mixer = LongT5Attention(heads, draw(st.integers(1, 5)), radius, position, size, 0.1, **a.norms_around)
        return replace(layer, attention=mixer)

    return replace(stack, layers=tuple(map(local, stack.layers)))


@st.composite
def xlnet(draw: st.DrawFn, stack: Stack, embedding: Embedding) -> Stack:
    """The stack with XLNet's attention in its layers, which may compare the token types."""

    def relative(layer: Layer) -> Layer:
        a, few = layer.attention, st.integers(1, 3)
        segments = embedding.token_types is not None and draw(st.booleans())
        clamp = draw(st.none() | few)
        mixer = XLNetAttention(draw(few), draw(st.integers(1, 5)), clamp, segments, **a.norms_around)
        return replace(layer, attention=mixer)

    return replace(stack, layers=tuple(map(relative, stack.layers)))


@st.composite
def bigbird(draw: st.DrawFn, stack: Stack) -> Stack:
    """The stack with BigBird's blocks in its layers."""
    blocks = st.builds(BigBirdBlocks, st.integers(1, 2), st.integers(0, 1))

    def sparse(layer: Layer) -> Layer:
        a = layer.attention
        assert isinstance(a, Attention)
        position = a.position if isinstance(a.position, Rope) else None
        mixer = replace(a, mask=draw(blocks), position=position, sink_logits=False)
        return replace(layer, attention=mixer)

    return replace(stack, layers=tuple(map(sparse, stack.layers)))


def entry(embedding: Embedding) -> int:
    """The width of the vectors that positions are added to."""
    inner = embedding.projection
    return inner.width if inner is not None and inner.late else embedding.width


@st.composite
def merged(draw: st.DrawFn, stack: Stack) -> Stack:
    """The stack with merged attention in the layers whose attention can be merged."""

    def one(layer: Layer) -> Layer:
        a = layer.attention
        if not isinstance(a, Attention) or layer.beside is not None:
            return layer
        position = a.position if isinstance(a.position, Rope) else None
        norm = draw(st.none() | head_norms)
        a = replace(a, position=position, clip=None, value_norm=None, keys_as_values=False, qk_norm=norm)
        return replace(layer, attention=a, cross=a.merged_keys, merged=True)

    return replace(stack, layers=tuple(map(one, stack.layers)))


@st.composite
def uneven(draw: st.DrawFn, stack: Stack) -> Stack:
    """The encoder's stack, whose windows may reach farther to one side."""

    def one(layer: Layer) -> Layer:
        a = layer.attention
        if stack.causal or not isinstance(a, Attention) or not isinstance(a.mask, Window):
            return layer
        return replace(layer, attention=replace(a, mask=Window(a.mask.size, draw(st.integers(1, 4)))))

    return replace(stack, layers=tuple(map(one, stack.layers)))


@st.composite
def pairs(draw: st.DrawFn) -> EncoderDecoder:
    """An encoder and a decoder, with different depths and heads, perhaps with a table and a width each."""
    width, own = draw(st.integers(1, 8)), None
    embedding = Embedding(draw(st.integers(2, 12)), width, draw(scales))
    decoder = draw(stacks(width=width, crossed=True, decodes=width))
    if draw(st.booleans()):
        decoder = draw(merged(decoder))
        embedding = replace(embedding, apart=draw(st.none() | st.integers(0, embedding.vocabulary - 1)))
    if draw(st.booleans()):
        width = draw(st.integers(1, 8))
        own = Embedding(embedding.vocabulary, width, draw(scales), apart=embedding.apart)
    encoder, head = draw(uneven(draw(stacks(width=width, reads=True)))), draw(lm_heads(embedding))
    return EncoderDecoder(embedding, encoder, decoder, head, CONTEXT, encoder_embedding=own)
