"""Checks of a Config: sizes that contradict each other or leave their bounds are a ConfigError.

They run before any weight is read, so a hostile file can't ask for absurd memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ..errors import ConfigError
from .heads import LM, AdaptiveSoftmax, Classify, Head, MaskedLM, Pool, QuestionAnswering, Tag
from .layers import Layer
from .masks import BigBirdBlocks, BlockSparse, Chunked, FullAttention, Window
from .mlps import ONE_GROUP, ClampedSwiGLU, Gated, Mlp, MoE, NoMlp, SparseMixer
from .mtp import MTP
from .norms import HeadNorm, LayerNorm
from .positions import (
    Alibi,
    DynamicNTK,
    Learned,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    ProportionalScaling,
    QueryScale,
    RelativeBias,
    Rope,
    Scaling,
    Sinusoidal,
    Yarn,
)
from .stack import DecoderReader, Embedding, Stack
from .token_mixers import (
    LSTM,
    Attention,
    DisentangledAttention,
    GatedDelta,
    Indexer,
    LatentAttention,
    LinearAttention,
    LongformerAttention,
    LongT5Attention,
    Mamba,
    Mamba2,
    QuestionTokens,
    SharedIndexer,
    ShortConv,
    TokenMixer,
    XLNetAttention,
)

# The largest sizes: enough for any model that this code could run.
LIMITS = {
    "vocabulary": 2**20,
    "width": 2**20,
    "context": 2**24,
    "layers": 1024,
    "heads": 4096,
    "experts": 2**16,  # of all layers together
    "streams": 64,  # vectors of a token
    "kernel": 256,  # tokens that a short convolution sees
    "clusters": 32,  # of an adaptive softmax
}
SMALLEST = 2.0**-126  # float32's smallest normal number


def _need(true: bool, message: str) -> None:
    if not true:
        raise ConfigError(message)


def _bounded(name: str, value: int, limit: int, least: int = 1) -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    _need(is_integer and least <= value <= limit, f"{name} must be {least} to {limit}, got {value!r:.40}")


def _check_numbers(path: str, value: Any, checked: set[int]) -> None:
    """All floats must be above 0 and in the range in which float32 computes with full precision."""
    if isinstance(value, tuple):
        for i, item in enumerate(value):
            _check_numbers(f"{path}[{i}]", item, checked)
    elif isinstance(value, float):
        fits = SMALLEST <= value <= 1 / SMALLEST
        _need(fits, f"{path} must be positive, 2^-126 to 2^126, got {value!r}")
    elif is_dataclass(value) and id(value) not in checked:
        checked.add(id(value))  # layers are mostly one and the same
        for f in fields(value):
            _check_numbers(f"{path}.{f.name}" if path else f.name, getattr(value, f.name), checked)


def check(
    embedding: Embedding,
    stacks: Mapping[str, Stack],
    head: Head,
    context: int,
    encoder_context: int | None = None,
) -> None:
    """Raise ConfigError when a model's sizes contradict each other, or a number leaves its bounds.

    `stacks` are named as in the Config: an "encoder", a "decoder", or one and a "decoder" or "reader" of it.
    """
    seen: set[int] = set()
    _check_numbers("embedding", embedding, seen)
    _check_numbers("head", head, seen)
    for name, stack in stacks.items():
        _check_numbers(name, stack, seen)
    _bounded("vocabulary", embedding.vocabulary, LIMITS["vocabulary"])
    _bounded("width", embedding.width, LIMITS["width"])
    _bounded("context", context, LIMITS["context"])
    if encoder_context is not None:
        _bounded("the encoder's context", encoder_context, LIMITS["context"])
        _need("reader" not in stacks, "a reader has the encoder's text, so both have one context")
    if embedding.token_types is not None:
        _bounded("token types", embedding.token_types, LIMITS["vocabulary"])
    _need(
        isinstance(head, LM) == ("decoder" in stacks),
        f"a decoder's head must be LM, an encoder's another one, got {type(head).__name__}",
    )
    _need(
        "encoder" in stacks or embedding.token_types is None,
        f"token types are an encoder's, got {embedding.token_types} for a decoder alone",
    )
    table_width = embedding.width
    if embedding.projection is not None:
        table_width = embedding.projection.width
        _bounded("width of the tables", table_width, LIMITS["width"])
        _need(len(stacks) == 1, "a model with two stacks has one width, got a projection of the embedding")
    _check_head(head, embedding.width, table_width)
    if isinstance(head, LM) and head.adaptive is not None:
        _check_adaptive(head, head.adaptive, embedding.vocabulary, table_width)
    if isinstance(head, Classify | Tag):
        _bounded("labels", head.labels, LIMITS["vocabulary"])
    for name, stack in stacks.items():
        longest = context if encoder_context is None or name != "encoder" else encoder_context
        _check_stack(name, stack, embedding, longest, crossed=name != "encoder" and "encoder" in stacks)


def check_reader(reader: DecoderReader, embedding: Embedding) -> None:
    """Raise ConfigError unless the reader's first token is one of the vocabulary."""
    _bounded("the reader's start token", reader.start, embedding.vocabulary - 1, 0)


def check_mtp(mtp: MTP, embedding: Embedding, stack: Stack) -> None:
    """Raise ConfigError unless the module is a layer of its decoder's kind, over tables of the model's width.

    With the mixer of one of the decoder's layers, the module has the positions, the cache and the operators
    that the decoder has.
    """
    _check_numbers("mtp", mtp, set())
    own = mtp.layer
    _need(
        any(own.attention == layer.attention for layer in stack.layers),
        "the mixer of the mtp module's layer must be that of a layer of the decoder",
    )
    _need(
        isinstance(own.attention, Attention | LatentAttention) and own.kv_layer is None,
        "the mtp module's layer must have attention with keys of its own, whose cache drafts can be cut from",
    )
    shared = isinstance(own.attention, Attention) and isinstance(own.attention.position, RelativeBias)
    _need(not shared, "the mtp module's layer can't have relative biases, whose table is the decoder's")
    # Its other parts are held to what a decoder's layer may have.
    _check_stack("decoder", Stack((own,), mtp.norm), embedding, 1, crossed=False)
    plain = (embedding.projection, embedding.per_layer, stack.positions, stack.first_norm)
    _need(
        plain == (None, None, None, None) and stack.final_norm is not None,
        "a decoder with an mtp module must have a final norm, and token vectors of its own width to which "
        "nothing is added before the first layer",
    )


def _check_head(head: Head, width: int, table_width: int) -> None:
    # A language model's vectors have the width of the tables before its head.
    dense_width = table_width if isinstance(head, LM) else width
    if head.dense is not None:
        dense_width = dense_width if head.dense.width is None else head.dense.width
        _bounded("width of the head's dense map", dense_width, LIMITS["width"])
    if isinstance(head, QuestionAnswering) and head.mlp is not None:
        _need(
            (head.mlp.pre, head.mlp.post) == (None, None), "the head's mlp has no norm but the one after it"
        )
        _bounded("width of the head's mlp", head.mlp.width, LIMITS["width"])
    if isinstance(head, Pool):
        for i, dense in enumerate(head.projections):
            _need(dense.norm is None, f"projection {i} of the head must have no norm, got {dense.norm}")
            _bounded(f"width of projection {i} of the head", dense.width or width, LIMITS["width"])
        _bounded("number of projections of the head", len(head.projections), LIMITS["layers"], 0)
    if isinstance(head, LM | MaskedLM) and head.tied:
        fits = dense_width == table_width
        _need(fits, f"a tied output must have the width of the tables, {table_width}, got {dense_width}")


def _check_adaptive(head: LM, adaptive: AdaptiveSoftmax, vocabulary: int, width: int) -> None:
    alone = (head.tied, head.softcap, head.scale, head.dense) == (False, None, None, None)
    _need(alone, "an adaptive softmax must have an output of its own, without softcap, scale and dense map")
    cutoffs = adaptive.cutoffs
    _bounded("clusters of the adaptive softmax", len(cutoffs), LIMITS["clusters"])
    for cutoff, least in zip(cutoffs, (1, *(cutoff + 1 for cutoff in cutoffs)), strict=False):
        _bounded("cutoffs of the adaptive softmax, in ascending order,", cutoff, vocabulary - 1, least)
    possible = 1 <= adaptive.divisor <= width
    _need(possible, f"divisor of the adaptive softmax must be 1 to {width}, got {adaptive.divisor!r}")
    _bounded("width of the last cluster", adaptive.width(len(cutoffs) - 1, width), LIMITS["width"])


def _check_stack(name: str, stack: Stack, embedding: Embedding, context: int, *, crossed: bool) -> None:
    _need(name != "decoder" or not stack.causal, "a decoder is causal by itself, its stack must not say so")
    _need(name != "reader" or stack.causal, "a reader's stack must be causal")
    _bounded(f"{name}: number of layers", len(stack.layers), LIMITS["layers"])
    _check_positions(name, stack, embedding, context)
    for i, layer in enumerate(stack.layers):
        at = f"{name} layer {i}: "
        _check_mixers(at, layer, name, stack.layers[:i], both_ways=name != "decoder" and not stack.causal)
        _check_residuals(at, layer, decodes=name == "decoder")
        _check_mlp(at, layer.mlp, parallel=layer.parallel)
        needs = "must be there, as the model has an encoder" if crossed else "needs a decoder with an encoder"
        _need((layer.cross is not None) == crossed, f"{at}cross-attention {needs}")
        if layer.cross is not None:
            _need(not layer.parallel, f"{at}cross-attention stands between the others, got parallel")
            _check_cross(at, layer.cross)
    _check_what_layers_share(name, stack, embedding)


def _check_positions(name: str, stack: Stack, embedding: Embedding, context: int) -> None:
    """Positions that are added to the stack's input."""
    ordered = not stack.norm_before_positions or None not in (stack.first_norm, stack.positions)
    _need(ordered, f"{name}: a norm before the positions needs a first norm and positions that are added")
    match stack.positions:
        case Learned(size, offset):
            _bounded(f"{name}: number of learned positions", size, LIMITS["context"], context)
            _bounded(f"{name}: offset of the learned positions", offset, LIMITS["context"], 0)
        case Sinusoidal(offset=offset):
            _bounded(f"{name}: offset of the sinusoidal positions", offset, LIMITS["context"], 0)
            projection = embedding.projection
            width = embedding.width
            if projection is not None and projection.late:
                width = projection.width
            _need(width % 2 == 0, f"{name}: sinusoidal positions need an even width, got {width}")
        case None:
            pass


def _check_mixers(at: str, layer: Layer, name: str, before: tuple[Layer, ...], *, both_ways: bool) -> None:
    """A layer's mixer, what stands beside it, and the layer before whose keys and values it reads."""
    mixer = layer.attention
    _check_mixer(at, mixer, decodes=name == "decoder")
    if isinstance(mixer, DisentangledAttention):
        _need(both_ways, f"{at}disentangled attention must be in an encoder that isn't causal")
    if isinstance(mixer, LongformerAttention):
        alone = both_ways and name == "encoder"
        _need(alone, f"{at}Longformer's attention must be in an encoder that isn't causal")
    if isinstance(mixer, LongT5Attention):
        alone = both_ways and name == "encoder"
        _need(alone, f"{at}LongT5's attention must be in an encoder that isn't causal")
    if isinstance(mixer, XLNetAttention):
        alone = both_ways and name == "encoder"
        _need(alone, f"{at}XLNet's attention must be in an encoder that isn't causal")
    if isinstance(mixer, Attention) and isinstance(mixer.mask, BigBirdBlocks):
        _need(both_ways, f"{at}BigBird's blocks must be in an encoder that isn't causal")
    if layer.conv is not None:
        _bounded(at + "neighbours of the convolution", layer.conv.neighbours, LIMITS["kernel"], 0)
        _need(both_ways, f"{at}a convolution over neighbours must be in an encoder")
    if layer.beside is not None:
        both = isinstance(mixer, Attention) and name == "decoder"
        _need(both, f"{at}a state space must be beside attention, in a decoder")
        _check_mamba2(f"{at}beside attention: ", layer.beside.mixer)
        own = (layer.beside.mixer.pre, layer.beside.mixer.post, layer.beside.mixer.after)
        _need(own == (None, None, None), f"{at}a state space beside attention has no norms of its own")
    if isinstance(mixer, Attention) and mixer.kv_layer is not None:
        _need(name == "decoder", f"{at}only a decoder's layer reads the keys and values of another")
        _check_shared_kv(at, layer, mixer, before)
    if isinstance(mixer, LatentAttention) and isinstance(mixer.indexer, SharedIndexer):
        indexers = [o.attention.indexer for o in before if isinstance(o.attention, LatentAttention)]
        shared = next((i for i in reversed(indexers) if i is not None), None)
        _need(shared is not None, f"{at}a shared indexer needs a layer before it with an indexer of its own")
        assert shared is not None
        got = mixer.indexer.topk
        _need(
            shared.topk == got,
            f"{at}a shared indexer must have the topk {shared.topk} of it, got {got!r:.40}",
        )


def _check_residuals(at: str, layer: Layer, *, decodes: bool) -> None:
    """What a layer adds to its input beside the sublayers' outputs, and in which order."""
    if layer.per_layer is not None:
        _bounded(at + "width of the per-layer input", layer.per_layer.width, LIMITS["width"])
    if layer.laurel is not None:
        _need(decodes, f"{at}a learned residual must be in a decoder")
        _bounded(at + "rank of the learned residual", layer.laurel.rank, LIMITS["width"])
    if layer.altup is not None:
        _need(decodes, f"{at}alternating updates must be in a decoder")
        _bounded(at + "streams", layer.altup.streams, LIMITS["streams"], 2)
        _bounded(at + "active stream", layer.altup.active, layer.altup.streams - 1, 0)
    alone = layer.residual == "input" or not layer.parallel
    _need(alone, f"{at}a residual after the norm needs one sublayer after the other, got parallel")
    beside = not layer.parallel or not isinstance(layer.mlp, NoMlp)
    _need(beside, f"{at}parallel needs an mlp, got NoMlp")


def _check_cross(at: str, c: Attention) -> None:
    _check_attention(f"{at}cross-attention: ", c)
    settings = (
        c.position,
        c.mask,
        c.qk_norm,
        c.clip,
        c.query_scale,
        c.kv,
        c.sink_logits,
        c.output_gate,
        c.value_norm,
        c.keys_as_values,
        c.kv_layer,
        c.head_gate,
        c.out_norm,
    )
    plain = (None, FullAttention(), None, None, None, "float", False, False, None, False, None, False, None)
    _need(
        settings == plain,
        f"{at}cross-attention must have no position, mask, clip, scale of queries or norm of heads, "
        "nor kv, sinks, a gate, a norm of values, keys as values, kv_layer or out_norm",
    )


def _check_what_layers_share(name: str, stack: Stack, embedding: Embedding) -> None:
    """Widths and tables that must be the same in all layers of a stack, and what they have together."""
    widths = {None if layer.per_layer is None else layer.per_layer.width for layer in stack.layers}
    fits = len(widths) == 1 and (widths == {None}) == (embedding.per_layer is None)
    _need(
        fits and (embedding.per_layer is None or name == "decoder"),
        f"{name}: all layers of a decoder have per-layer inputs of one width, and its embedding their table, "
        "or none has",
    )
    streams = {None if layer.altup is None else layer.altup.streams for layer in stack.layers}
    _need(len(streams) == 1, f"{name}: all layers have as many streams, or none has alternating updates")
    if embedding.per_layer is not None:
        _bounded("rows of the per-layer table", embedding.per_layer.rows, LIMITS["vocabulary"])
    experts = sum(layer.mlp.experts for layer in stack.layers if isinstance(layer.mlp, MoE))
    _bounded(f"{name}: experts of all layers", experts, LIMITS["experts"], 0)
    relative = [(a.position, a.heads) for a in stack.attentions if isinstance(a.position, RelativeBias)]
    mixers = [layer.attention for layer in stack.layers]
    relative += [(m.position, m.heads) for m in mixers if isinstance(m, LongT5Attention)]
    shared = {(position, heads) for position, heads in relative if position.shared}
    _need(len(shared) <= 1, f"{name}: layers share one table of relative biases, got {len(shared)} kinds")
    sizes = {(m.radius, m.global_block_size) for m in mixers if isinstance(m, LongT5Attention)}
    _need(len(sizes) <= 1, f"{name}: layers have one radius and global_block_size, got {len(sizes)} kinds")
    tables = {mixer.distances for mixer in mixers if isinstance(mixer, DisentangledAttention)}
    _need(len(tables) <= 1, f"{name}: layers share one table of distances, got {len(tables)} kinds")
    kinds = {mixer.global_tokens for mixer in mixers if isinstance(mixer, LongformerAttention)}
    _need(len(kinds) <= 1, f"{name}: layers have the same global tokens, got {len(kinds)} kinds")
    if any(isinstance(mixer, XLNetAttention) for mixer in mixers):
        width = embedding.width
        _need(width % 2 == 0, f"{name}: sines and cosines of distances need an even width, got {width}")
    typed = embedding.token_types is not None or not stack.segments
    _need(typed, f"{name}: layers with segments need token types in the embedding")
    for kind in kinds:
        if isinstance(kind, QuestionTokens):
            _bounded(f"{name}: separator of the question", kind.separator, embedding.vocabulary - 1, 0)


def _check_mixer(at: str, mixer: TokenMixer, *, decodes: bool) -> None:
    match mixer:
        case Attention():
            _check_attention(at, mixer)
            kept = decodes or mixer.kv == "float"
            _need(kept, f"{at}only a decoder keeps keys and values, got kv {mixer.kv!r}")
        case LinearAttention():
            _check_heads(at, mixer)
            _need(decodes, f"{at}linear attention must be in a decoder")
        case LSTM():
            _bounded(at + "width of the LSTM", mixer.width, LIMITS["width"])
            _need(decodes, f"{at}an LSTM must be in a decoder")
        case ShortConv():
            _bounded(at + "width of the convolution", mixer.width, LIMITS["width"])
            _bounded(at + "length of the convolution", mixer.length, LIMITS["kernel"], 2)
            _need(decodes, f"{at}a short convolution must be in a decoder")
        case GatedDelta():
            _check_gated_delta(at, mixer)
            _need(decodes, f"{at}a gated delta network must be in a decoder")
        case Mamba():
            _bounded(at + "width of the channels", mixer.width, LIMITS["width"])
            _bounded(at + "state_size", mixer.state_size, LIMITS["width"])
            _bounded(at + "rank of the steps", mixer.rank, LIMITS["width"])
            _bounded(at + "length of the convolution", mixer.length, LIMITS["kernel"], 2)
            _need(decodes, f"{at}Mamba's layer must be in a decoder")
        case Mamba2():
            _check_mamba2(at, mixer)
            _need(decodes, f"{at}Mamba 2's layer must be in a decoder")
        case LatentAttention():
            _check_latent(at, mixer)
            _need(decodes or mixer.indexer is None, f"{at}an indexer must be in a decoder")
        case DisentangledAttention():
            _check_disentangled(at, mixer)
        case LongformerAttention():
            _bounded(at + "heads", mixer.heads, LIMITS["heads"])
            _bounded(at + "head_size", mixer.head_size, LIMITS["width"])
            _bounded(at + "reach of the window", mixer.reach, LIMITS["context"])
        case XLNetAttention():
            _bounded(at + "heads", mixer.heads, LIMITS["heads"])
            _bounded(at + "head_size", mixer.head_size, LIMITS["width"])
            if mixer.clamp is not None:
                _bounded(at + "clamp of distances", mixer.clamp, LIMITS["context"])
        case LongT5Attention():
            _bounded(at + "heads", mixer.heads, LIMITS["heads"])
            _bounded(at + "head_size", mixer.head_size, LIMITS["width"])
            _bounded(at + "radius of the window", mixer.radius, LIMITS["context"])
            if mixer.global_block_size is not None:
                _bounded(at + "global_block_size", mixer.global_block_size, LIMITS["context"])
            _need(mixer.position.shared, f"{at}layers of LongT5's attention share their biases")
            _check_buckets(at, mixer.position)


def _check_shared_kv(at: str, layer: Layer, a: Attention, before: tuple[Layer, ...]) -> None:
    index = a.kv_layer
    is_before = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(before)
    _need(is_before, f"{at}kv_layer must be an earlier layer of the stack, got {index!r:.40}")
    assert index is not None
    source = before[index]
    own = isinstance(source.attention, Attention) and source.attention.kv_layer is None
    _need(own, f"{at}kv_layer must have attention with keys and values of its own, layer {index} has not")
    assert isinstance(source.attention, Attention)
    _need(
        source.beside is None and layer.beside is None,
        f"{at}kv_layer needs attention alone, got a state space",
    )
    s = source.attention
    same = (a.kv_heads, a.head_size, a.position, a.mask, a.kv) == (
        s.kv_heads, s.head_size, s.position, s.mask, s.kv,
    )  # fmt: skip
    _need(
        same,
        f"{at}kv_layer must have the same kv_heads, head_size, position, mask and kv, layer {index} has not",
    )
    rotary = a.position is None or isinstance(a.position, Rope)
    _need(rotary, f"{at}kv_layer needs rotary positions or none, got {type(a.position).__name__}")
    plain = a.value_norm is None and not a.keys_as_values
    _need(plain, f"{at}kv_layer means that it makes no values, got a norm of values or keys as values")


def _check_gated_delta(at: str, mixer: GatedDelta) -> None:
    _bounded(at + "heads", mixer.heads, LIMITS["heads"])
    _bounded(at + "key_heads", mixer.key_heads, LIMITS["heads"])
    _bounded(at + "key_size", mixer.key_size, LIMITS["width"])
    _bounded(at + "value_size", mixer.value_size, LIMITS["width"])
    _bounded(at + "length of the convolution", mixer.length, LIMITS["kernel"], 2)
    divisible = mixer.heads % mixer.key_heads == 0
    _need(divisible, f"{at}heads must be a multiple of key_heads, got {mixer.heads} and {mixer.key_heads}")
    if mixer.rank is not None:
        _bounded(at + "rank of decay and gate", mixer.rank, LIMITS["width"])


def _check_mamba2(at: str, mixer: Mamba2) -> None:
    _bounded(at + "heads", mixer.heads, LIMITS["heads"])
    _bounded(at + "groups", mixer.groups, LIMITS["heads"])
    _bounded(at + "state_size", mixer.state_size, LIMITS["width"])
    _bounded(at + "head_size", mixer.head_size, LIMITS["width"])
    _bounded(at + "length of the convolution", mixer.length, LIMITS["kernel"], 2)
    divisible = mixer.heads % mixer.groups == 0
    _need(divisible, f"{at}heads must be a multiple of groups, got {mixer.heads} and {mixer.groups}")
    count = len(mixer.multipliers)
    _need(count in (0, 5), f"{at}multipliers must be five or none, got {count}")


def _check_latent(at: str, a: LatentAttention) -> None:
    _bounded(at + "heads", a.heads, LIMITS["heads"])
    _bounded(at + "rank of the latent", a.rank, LIMITS["width"])
    _bounded(at + "key_size", a.key_size, LIMITS["width"])
    _bounded(at + "value_size", a.value_size, LIMITS["width"])
    if a.query_rank is not None:
        _bounded(at + "rank of the queries' latent", a.query_rank, LIMITS["width"])
    _check_query_scale(at, a.query_scale)
    if a.position is None:
        _bounded(at + "shared_size", a.shared_size or 0, LIMITS["width"])
        _need(a.indexer is None, f"{at}an indexer has positions, got attention without")
    else:
        _check_rope(at, a.position, LIMITS["width"])
        _need(a.shared_size is None, f"{at}shared_size is for attention without positions, got both")
    if isinstance(a.indexer, Indexer):
        dims = a.key_dims
        _need(a.query_rank is not None, f"{at}an indexer reads the latent of queries, got none")
        _bounded(at + "heads of the indexer", a.indexer.heads, LIMITS["heads"])
        _bounded(at + "size of the indexer's heads", a.indexer.size, LIMITS["width"], dims)
        _bounded(at + "topk of the indexer", a.indexer.topk, LIMITS["context"])


def _check_disentangled(at: str, a: DisentangledAttention) -> None:
    span, until = a.distances.span, a.distances.log_until
    _bounded(at + "heads", a.heads, LIMITS["heads"])
    _bounded(at + "head_size", a.head_size, LIMITS["width"])
    _bounded(at + "span of the distances", span, LIMITS["context"])
    if until is not None:
        _need(span % 2 == 0, f"{at}span of distances that share vectors must be even, got {span}")
        _bounded(at + "log_until of the distances", until, LIMITS["context"], span // 2 + 2)
    some = a.content_to_position or a.position_to_content
    _need(some, f"{at}disentangled attention must have a term with positions, else it is attention")


def _check_heads(at: str, a: Attention | LinearAttention) -> None:
    _bounded(at + "heads", a.heads, LIMITS["heads"])
    _bounded(at + "kv_heads", a.kv_heads, LIMITS["heads"])
    _bounded(at + "head_size", a.head_size, LIMITS["width"])
    divisible = a.heads % a.kv_heads == 0
    _need(divisible, f"{at}heads must be a multiple of kv_heads, got {a.heads} and {a.kv_heads}")


def _check_attention(at: str, a: Attention) -> None:
    _check_heads(at, a)
    if isinstance(a.qk_norm, HeadNorm):
        fits = not isinstance(n := a.qk_norm.norm, LayerNorm) or (n.weight and not n.bias)
        _need(fits, f"{at}a norm of queries and keys must have a weight and no bias, got {a.qk_norm.norm}")
        bare = a.qk_norm.weight or (a.qk_norm.over == "head" and a.qk_norm.rotated)
        _need(bare, f"{at}a norm of queries and keys without a weight is over each head, after the rotation")
        turned = not a.qk_norm.rotated or isinstance(a.position, Rope)
        _need(turned, f"{at}a norm after the rotation needs rotary positions, got {a.position}")
    _check_query_scale(at, a.query_scale)
    alone = a.out_norm is None or not (a.output_gate or a.head_gate)
    _need(alone, f"{at}what heads give is multiplied by a gate or normalized, got a gate and out_norm")
    match a.mask:
        case Window(size):
            _bounded(at + "window", size, LIMITS["context"])
        case Chunked(size):
            _bounded(at + "chunk of the mask", size, LIMITS["context"])
        case BlockSparse(block, reach, first):
            _bounded(at + "block of the mask", block, LIMITS["context"])
            _bounded(at + "reach of the mask", reach, LIMITS["context"], 0)
            _bounded(at + "first blocks of the mask", first, LIMITS["context"], 0)
        case BigBirdBlocks(block_size, random_blocks):
            _bounded(at + "block_size of the mask", block_size, LIMITS["context"])
            _bounded(at + "random_blocks of the mask", random_blocks, LIMITS["context"], 0)
            plain = not isinstance(a.position, Alibi | RelativeBias) and not a.sink_logits
            _need(plain, f"{at}BigBird's blocks have scores without biases and sinks")
        case FullAttention():
            pass
    match a.position:
        case Rope():
            _check_rope(at, a.position, a.head_size)
        case RelativeBias():
            _check_buckets(at, a.position)
        case Alibi() | None:
            pass


def _check_query_scale(at: str, scale: QueryScale | None) -> None:
    if scale is not None:
        _bounded(at + "original context of the scale of queries", scale.original_context, LIMITS["context"])
        _bounded(at + "offset of the scale of queries", scale.offset, LIMITS["context"], 0)


def _check_buckets(at: str, position: RelativeBias) -> None:
    buckets, distance = position.buckets, position.max_distance
    _bounded(at + "buckets of the relative bias", buckets, LIMITS["context"], 4)
    _bounded(at + "max_distance of the relative bias", distance, LIMITS["context"], buckets // 2 + 1)


def _check_rope(at: str, rope: Rope, size: int) -> None:
    _bounded(at + "rotary dims", rope.dims, size)
    _need(rope.dims % 2 == 0, f"{at}rotary dims must be even, got {rope.dims}")
    _check_scaling(at, rope.scaling, rope.theta, rope.dims // 2)


def _check_mlp(at: str, mlp: Mlp, *, parallel: bool) -> None:
    if isinstance(mlp, NoMlp):
        return
    _bounded(at + "mlp width", mlp.width, LIMITS["width"])
    if isinstance(mlp, Gated):
        once = not (mlp.bias and mlp.down_bias)
        _need(once, f"{at}a bias of `down` alone means no other bias, got bias and down_bias")
        share = mlp.sparsity is None or mlp.sparsity < 1
        _need(share, f"{at}sparsity must be a share below 1, got {mlp.sparsity!r}")
    if isinstance(mlp, MoE):
        _bounded(at + "experts", mlp.experts, LIMITS["experts"])
        _bounded(at + "chosen experts", mlp.top, mlp.experts)
        _check_groups(at, mlp)
        if mlp.shared is not None:
            _bounded(at + "width of the shared expert", mlp.shared, LIMITS["width"])
        _need(
            mlp.shared is not None or not mlp.shared_gate,
            f"{at}a shared expert's gate needs a shared expert, got none",
        )
        if mlp.latent is not None:
            _bounded(at + "numbers of the experts' latent", mlp.latent, LIMITS["width"])
            _need(mlp.own_norms is None, f"{at}experts between norms of their own have no latent")
        _need(
            mlp.gated or not isinstance(mlp.activation, ClampedSwiGLU),
            f"{at}a clamped SwiGLU needs gated experts",
        )
        _need(
            not mlp.shared_bias or (mlp.shared, mlp.latent) != (None, None),
            f"{at}biases of what all tokens take need a shared expert or a latent, got neither",
        )
        _need(
            mlp.own_norms is None or (mlp.pre is None and not parallel),
            f"{at}a mixture with norms of its own has no norm before it, and isn't parallel",
        )


def _check_groups(at: str, mlp: MoE) -> None:
    if isinstance(mlp.score, SparseMixer):
        settings = mlp.renormalize, mlp.scale, mlp.choice_bias, mlp.groups, mlp.sum_eps
        plain = settings == (False, None, False, ONE_GROUP, None)
        _need(plain, f"{at}a sparse mixer has no renormalize, scale, choice_bias, groups and sum_eps")
    count, top = mlp.groups.count, mlp.groups.top
    _bounded(at + "groups of experts", count, mlp.experts)
    _bounded(at + "chosen groups of experts", top, count)
    size, left = divmod(mlp.experts, count)
    _need(left == 0, f"{at}experts must be a multiple of their groups, got {mlp.experts} and {count}")
    fit = mlp.top <= top * size
    _need(fit, f"{at}chosen experts must be at most those of the chosen groups, {top * size}, got {mlp.top}")
    pair = count == 1 or mlp.groups.by != "top2" or size > 1
    _need(pair, f"{at}groups by their two best experts must have two at least, got {size}")


def _check_scaling(at: str, scaling: Scaling | None, theta: float, pairs: int) -> None:
    if scaling is not None and not isinstance(scaling, LinearScaling | ProportionalScaling):
        _bounded(at + "original context of the rotary scaling", scaling.original_context, LIMITS["context"])
    match scaling:
        case Yarn():
            _need(theta > 1, f"{at}yarn needs a rotary theta above 1, got {theta!r}")
        case Llama3Scaling(low_freq_factor=low, high_freq_factor=high):
            _need(
                low <= high,
                f"{at}low_freq_factor must be at most high_freq_factor, got {low!r} and {high!r}",
            )
        case LongRope(short, long):
            for divisors in (short, long):
                fit = len(divisors) == pairs
                _need(fit, f"{at}the rotary scaling needs {pairs} divisors, got {divisors!r:.80}")
        case ProportionalScaling(turned):
            _bounded(at + "rotated pairs", turned, pairs)
        case LinearScaling() | DynamicNTK() | None:
            pass
