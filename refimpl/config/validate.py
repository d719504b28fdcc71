"""Check a Config: raise ConfigError if sizes contradict each other or are out of bounds.

The checks run before any weight is read, so a hostile file can't request huge amounts of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from .bounds import LIMITS, check_bounds, need, within
from .heads import CTC, Head
from .layers import Layer
from .masks import Window
from .mtp import MTP
from .positions import ConvPositions, RelativeBias
from .stack import DecoderReader, Embedding, SampleStem, Stack
from .token_mixers import Attention, TokenMixer

SMALLEST = 2.0**-126  # float32's smallest normal number


def _check_numbers(path: str, value: Any, checked: set[int]) -> None:
    """Raise ConfigError unless all floats are positive and in the range of float32's normal numbers."""
    if isinstance(value, tuple):
        for i, item in enumerate(value):
            _check_numbers(f"{path}[{i}]", item, checked)
    elif isinstance(value, float):
        fits = SMALLEST <= value <= 1 / SMALLEST
        need(fits, f"{path} must be positive, 2^-126 to 2^126, got {value!r}")
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
    encoder_embedding: Embedding | None = None,
) -> None:
    """Raise ConfigError if a model's sizes contradict each other, or if a number is out of bounds.

    `stacks` maps names to stacks: an "encoder", a "decoder", or an "encoder" with a "decoder" or a "reader"
    that reads the encoder's output. `encoder_embedding` is the encoder's separate embedding, if it has
    one.
    """
    seen: set[int] = set()
    if encoder_embedding is not None:
        _check_own_embedding(encoder_embedding, embedding, stacks)
    _check_numbers("embedding", embedding, seen)
    _check_numbers("head", head, seen)
    for name, stack in stacks.items():
        _check_numbers(name, stack, seen)
    within("vocabulary", embedding.vocabulary, LIMITS["vocabulary"])
    within("width", embedding.width, LIMITS["width"])
    within("context", context, LIMITS["context"])
    if encoder_context is not None:
        within("the encoder's context", encoder_context, LIMITS["context"])
        need(
            "reader" not in stacks,
            "the stack reader reads the encoder's text, so encoder_context must not be set",
        )
    for kind, rows in (("token types", embedding.token_types), ("task types", embedding.task_types)):
        if rows is not None:
            within(kind, rows, LIMITS["vocabulary"])
    need(
        head.generates == ("decoder" in stacks),
        "the head of a decoder must be LM, and the head of an encoder must not be LM, got "
        f"{type(head).__name__}",
    )
    types = embedding.token_types or embedding.task_types
    need(
        "encoder" in stacks or types is None,
        f"only an encoder can have token types, got {types} for a decoder",
    )
    dropped = embedding.token_dropout
    if dropped is not None:
        check_bounds("", dropped)
    need(
        dropped is None
        or (
            [*stacks] == ["encoder"]
            and not stacks["encoder"].stepwise
            and dropped.mask < embedding.vocabulary
        ),
        "token dropout needs an encoder without a decoder, and its mask must be a token of the vocabulary",
    )
    if embedding.apart is not None:
        within("the token with a vector of its own", embedding.apart, embedding.vocabulary - 1, 0)
        need(
            embedding.projection is None,
            "a token with a vector of its own (apart) can't be combined with a projection of the embedding",
        )
    table_width = embedding.width
    if embedding.projection is not None:
        table_width = embedding.projection.width
        within("width of the tables", table_width, LIMITS["width"])
        need(len(stacks) == 1, "a model with two stacks can't have a projection of the embedding")
        reads = "encoder" in stacks and not stacks["encoder"].stepwise and not embedding.projection.late
        need(
            reads or not embedding.projection.trigram,
            "trigram=True needs an encoder that isn't stepwise, and a projection with late=False",
        )
    head.check(table_width if head.generates else embedding.width, table_width, embedding.vocabulary)
    if stacks.keys() == {"encoder"} and (stack := stacks["encoder"]).causal and stack.stepwise:
        types = embedding.token_types
        need(types is None, f"a decoder with a reader can't have token types, got {types}")
        stacks = {"decoder": replace(stack, causal=False)}
    heard = any(stack.stem is not None for stack in stacks.values())
    need(
        "decoder" in stacks or heard == isinstance(head, CTC),
        "an encoder of sound needs a decoder or a CTC head, and a CTC head needs an encoder of sound, got "
        f"{type(head).__name__}",
    )
    unscaled = "decoder" in stacks or not heard or embedding.scale is None
    need(unscaled, f"a model that reads only sounds has no token embeddings to scale, got {embedding.scale}")
    alone = embedding.per_layer is None or len(stacks) == 1
    need(alone, "per-layer inputs need a model with one stack")
    for name, stack in stacks.items():
        longest, entry = context, embedding
        if name == "encoder":
            longest, entry = encoder_context or context, encoder_embedding or embedding
        _check_stack(name, stack, entry, longest, crossed=name != "encoder" and "encoder" in stacks)


def _check_own_embedding(own: Embedding, embedding: Embedding, stacks: Mapping[str, Stack]) -> None:
    """Raise ConfigError unless an encoder's separate table has the decoder's tokens, and the decoder
    generates.
    """
    _check_numbers("encoder_embedding", own, set())
    within("the encoder's width", own.width, LIMITS["width"])
    plain = Embedding(embedding.vocabulary, own.width, own.scale, apart=embedding.apart)
    need(
        "decoder" in stacks and stacks["encoder"].stem is None and own == plain,
        "encoder_embedding needs a decoder that generates text, and must be a plain table of the "
        "decoder's tokens",
    )


def check_reader(reader: DecoderReader, embedding: Embedding) -> None:
    """Raise ConfigError if the reader's start token isn't in the vocabulary."""
    if reader.start is not None:
        within("the reader's start token", reader.start, embedding.vocabulary - 1, 0)


def check_mtp(mtp: MTP, embedding: Embedding, stack: Stack) -> None:
    """Raise ConfigError if a multi-token prediction module doesn't fit its decoder.

    The module's layer must have the same mixer as one of the decoder's layers. The module then needs no
    positions, caches or operators that the decoder doesn't have. The module reads the decoder's token table,
    so this table must have the decoder's width.
    """
    _check_numbers("mtp", mtp, set())
    own = mtp.layer
    need(
        any(own.attention == layer.attention for layer in stack.layers),
        "the mtp module's layer must have the same mixer as a layer of the decoder",
    )
    need(
        own.attention.keeps == "tokens" and own.kv_layer is None,
        "the mtp module's layer must have attention with its own keys, so that rejected drafts can be "
        "removed from its cache",
    )
    shared = isinstance(own.attention, Attention) and isinstance(own.attention.position, RelativeBias)
    need(
        not shared,
        "the mtp module's layer can't have relative biases, since their table belongs to the decoder",
    )
    # Its other parts are held to what a decoder's layer may have.
    _check_stack("decoder", Stack((own,), mtp.norm), embedding, 1, crossed=False)
    plain = (embedding.projection, embedding.per_layer, stack.positions, stack.first_norm)
    need(
        plain == (None, None, None, None) and stack.final_norm is not None,
        "a decoder with an mtp module must have a final norm, and token embeddings of its own width to which "
        "nothing is added before the first layer",
    )


def _check_stack(name: str, stack: Stack, embedding: Embedding, context: int, *, crossed: bool) -> None:
    need(
        name != "decoder" or not stack.causal, "a decoder is always causal, so its stack must not set causal"
    )
    need(name != "reader" or stack.causal, "a reader's stack must set causal")
    within(f"{name}: number of layers", len(stack.layers), LIMITS["layers"])
    _check_positions(name, stack, embedding, context)
    for i, layer in enumerate(stack.layers):
        at = f"{name} layer {i}: "
        _check_mixers(at, layer, name, stack.layers[:i], both_ways=name != "decoder" and not stack.causal)
        _check_residuals(at, layer, decodes=name == "decoder")
        layer.mlp.check(at, parallel=layer.parallel)
        needs = "is missing, but the model has an encoder" if crossed else "needs a decoder with an encoder"
        need((layer.cross is not None) == crossed, f"{at}cross-attention {needs}")
        if layer.merged:
            _check_merged(at, layer, name)
        elif layer.cross is not None:
            need(
                not layer.parallel,
                f"{at}parallel must be false in a layer with cross-attention, which comes between the "
                "other sublayers",
            )
            _check_cross(at, layer.cross)
    _check_what_layers_share(name, stack, embedding)


def _check_positions(name: str, stack: Stack, embedding: Embedding, context: int) -> None:
    """Check the positions that a stack adds to its input, and the stem that reads a recording."""
    ordered = not stack.norm_before_positions or None not in (stack.first_norm, stack.positions)
    need(ordered, f"{name}: a norm before the positions needs a first norm and added positions")
    if stack.stem is not None:
        stack.stem.check(f"{name}: ", embedding.width)
        need(
            (name, stack.causal, stack.stepwise) == ("encoder", False, False),
            f"{name}: only an encoder that isn't causal can read sounds",
        )
        e = embedding
        added = (e.token_types, e.task_types, e.projection, e.per_layer, e.token_dropout)
        need(
            added == (None,) * 5,
            f"{name}: a stack that reads sounds can't have token types, token dropout, per-layer inputs, "
            "or embeddings of another width than the model's",
        )
    around = isinstance(stack.positions, ConvPositions)
    need(
        not around or stack.stem is not None,
        f"{name}: positions by a convolution need a stack that reads sounds",
    )
    waves = isinstance(stack.stem, SampleStem) and not around
    need(
        not waves or stack.positions is None,
        f"{name}: a stack that reads samples can't have positions from a table",
    )
    if stack.positions is not None:
        projection, width = embedding.projection, embedding.width
        if projection is not None and projection.late:
            width = projection.width
        stack.positions.check(f"{name}: ", context, width)


def _check_mixers(at: str, layer: Layer, name: str, before: tuple[Layer, ...], *, both_ways: bool) -> None:
    """Check a layer's mixer, the mixer beside it, and the earlier layer whose keys and values it reads."""
    mixer = layer.attention
    _check_mixer(at, mixer, name, both_ways=both_ways)
    if isinstance(mixer, Attention) and mixer.mask.whole:
        need(both_ways, f"{at}BigBird's blocks must be in an encoder that isn't causal")
    if isinstance(mixer, Attention) and isinstance(mixer.mask, Window):
        need(both_ways or mixer.mask.later is None, f"{at}later positions of a window must be in an encoder")
    if layer.conv is not None:
        within(at + "neighbours of the convolution", layer.conv.neighbours, LIMITS["kernel"], 0)
        need(both_ways, f"{at}a convolution over neighbours must be in an encoder")
    if layer.beside is not None:
        both = isinstance(mixer, Attention) and name == "decoder"
        need(both, f"{at}a state space must be beside attention, in a decoder")
        layer.beside.mixer.check(f"{at}beside attention: ")
        bare = not layer.beside.mixer.placed_norms
        need(bare, f"{at}a state space beside attention can't have its own norms")
    if isinstance(mixer, Attention) and mixer.kv_layer is not None:
        need(name == "decoder", f"{at}only a decoder's layer can read the keys and values of another layer")
        _check_shared_kv(at, layer, mixer, before)
    mixer.check_before(at, [other.attention for other in before])


def _check_residuals(at: str, layer: Layer, *, decodes: bool) -> None:
    """Check what a layer adds to its input in addition to the sublayers' outputs, and the order of
    additions.
    """
    if layer.per_layer is not None:
        within(at + "width of the per-layer input", layer.per_layer.width, LIMITS["width"])
    if layer.laurel is not None:
        need(decodes, f"{at}a learned residual must be in a decoder")
        within(at + "rank of the learned residual", layer.laurel.rank, LIMITS["width"])
    if layer.altup is not None:
        need(decodes, f"{at}alternating updates must be in a decoder")
        within(at + "streams", layer.altup.streams, LIMITS["streams"], 2)
        within(at + "active stream", layer.altup.active, layer.altup.streams - 1, 0)
    if (hyper := layer.hyper) is not None:
        need(decodes, f"{at}hyper-connections must be in a decoder")
        within(at + "streams", hyper.streams, LIMITS["streams"], 2)
        within(at + "rank of the hyper-connections", hyper.rank, LIMITS["width"])
        others = (layer.cross, layer.per_layer, layer.laurel, layer.altup) == (None,) * 4
        sums = not layer.parallel and layer.residual == "input"
        need(
            others and sums,
            f"{at}hyper-connections can't be combined with parallel, cross, per_layer, laurel, altup or a "
            "residual after the norm",
        )
        placed = {**layer.attention.placed_norms, **layer.mlp.placed_norms}
        need(placed.keys() <= {"pre"}, f"{at}hyper-connections can't have norms after a sublayer")
    streams = getattr(layer.attention, "streams", 1)
    fits = not layer.attention.reads_streams or (hyper is not None and hyper.streams == streams)
    need(fits, f"{at}{layer.attention.title} needs hyper-connections of {streams} streams, got {hyper}")
    alone = layer.residual == "input" or not layer.parallel
    need(alone, f"{at}a residual after the norm can't be combined with parallel sublayers")
    beside = not layer.parallel or layer.mlp.op is not None
    need(beside, f"{at}parallel needs an mlp, got NoMlp")


def _check_cross(at: str, c: Attention) -> None:
    c.check(f"{at}cross-attention: ")
    plain = Attention(
        c.heads,
        c.kv_heads,
        c.head_size,
        qkv_bias=c.qkv_bias,
        out_bias=c.out_bias,
        scale=c.scale,
        softcap=c.softcap,
        **c.norms_around,
    )
    need(
        c == plain,
        f"{at}cross-attention must have no position, mask, clip, scale of queries or norm of heads, nor kv, "
        "sinks, a gate, a norm, scale or size of values, keys as values, kv_layer or out_norm",
    )


def _check_merged(at: str, layer: Layer, name: str) -> None:
    a, c = layer.attention, layer.cross
    fits = name == "decoder" and isinstance(a, Attention) and layer.beside is None
    need(
        fits,
        f"{at}attention merged with cross-attention must be in a decoder, with no mixer beside attention",
    )
    assert isinstance(a, Attention)
    keys = a.merged_keys
    need(c == keys, f"{at}merged cross-attention must have the attention's keys, {keys}, got {c}")
    other = (a.clip, a.value_norm, a.kv_layer), a.keys_as_values, a.kv
    plain = other == ((None, None, None), False, "float") and not (a.position and a.position.adds)
    need(
        plain and not (a.qk_norm and a.qk_norm.rotated),
        f"{at}merged attention must have no added positions, clip, norm of values, norm after the rotation, "
        "keys as values, kv or kv_layer",
    )


def _check_what_layers_share(name: str, stack: Stack, embedding: Embedding) -> None:
    """Check the widths, tables and totals that all layers of a stack must agree on."""
    widths = {None if layer.per_layer is None else layer.per_layer.width for layer in stack.layers}
    fits = len(widths) == 1 and (widths == {None}) == (embedding.per_layer is None)
    need(
        fits,
        f"{name}: either all layers have per-layer inputs of one width and the embedding has them too, or "
        "no layer has them",
    )
    streams = {None if layer.altup is None else layer.altup.streams for layer in stack.layers}
    need(
        len(streams) == 1,
        f"{name}: alternating updates need the same number of streams in all layers, or none",
    )
    need(
        len({layer.hyper for layer in stack.layers}) == 1,
        f"{name}: all layers must have the same hyper-connections, or none",
    )
    late = [getattr(layer.mlp, "late", False) for layer in stack.layers]
    adds = name == "decoder" and not late[-1] and stack.streams == 1
    need(
        adds or not any(late),
        f"{name}: late experts need a decoder with one stream, and can't be in the last layer",
    )
    if embedding.per_layer is not None and embedding.per_layer.rows is not None:
        within("rows of the per-layer table", embedding.per_layer.rows, LIMITS["vocabulary"])
    experts = sum(getattr(layer.mlp, "experts", 0) for layer in stack.layers)
    within(f"{name}: experts of all layers", experts, LIMITS["experts"], 0)
    mixers: tuple[Any, ...] = stack.mixers
    positioned = [mixer for mixer in mixers if getattr(mixer, "position", None) is not None]
    relative = {(m.position, m.heads) for m in positioned if m.position.tables(m.heads)}
    need(
        len(relative) <= 1,
        f"{name}: all layers must share one table of relative biases, got {len(relative)} kinds",
    )
    for kind in dict.fromkeys(type(mixer) for mixer in mixers):
        alike = [mixer for mixer in mixers if type(mixer) is kind]
        kind.check_together(name, alike, embedding.width, embedding.vocabulary)
    typed = embedding.token_types is not None or not stack.segments
    need(typed, f"{name}: layers with segments need token types in the embedding")


def _check_mixer(at: str, mixer: TokenMixer, name: str, *, both_ways: bool) -> None:
    mixer.check(at)
    match mixer.place:
        case "decoder":
            need(name == "decoder", f"{at}{mixer.title} must be in a decoder")
        case "text":
            need(both_ways, f"{at}{mixer.title} must be in an encoder that isn't causal")
        case "encoder":
            alone = both_ways and name == "encoder"
            need(alone, f"{at}{mixer.title} must be in an encoder that isn't causal")
        case None:
            pass
    if isinstance(mixer, Attention):
        kept = name == "decoder" or mixer.kv == "float"
        need(kept, f"{at}only a decoder caches keys and values, got kv {mixer.kv!r}")
    need(name == "decoder" or not mixer.stepwise, f"{at}an indexer must be in a decoder")


def _check_shared_kv(at: str, layer: Layer, a: Attention, before: tuple[Layer, ...]) -> None:
    index = a.kv_layer
    is_before = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(before)
    need(is_before, f"{at}kv_layer must be an earlier layer of the stack, got {index!r:.40}")
    assert index is not None
    source = before[index]
    own = isinstance(source.attention, Attention) and source.attention.kv_layer is None
    need(own, f"{at}kv_layer must name a layer with its own keys and values, but layer {index} has none")
    assert isinstance(source.attention, Attention)
    need(
        source.beside is None and layer.beside is None,
        f"{at}kv_layer needs layers with attention only, got a state space",
    )
    s = source.attention
    same = (a.kv_heads, a.head_size, a.position, a.mask, a.kv) == (
        s.kv_heads, s.head_size, s.position, s.mask, s.kv,
    )  # fmt: skip
    need(
        same,
        f"{at}kv_layer must name a layer with the same kv_heads, head_size, position, mask and kv, but "
        f"layer {index} differs",
    )
    rotary = a.position is None or not a.position.adds
    need(rotary, f"{at}kv_layer needs rotary positions or none, got {type(a.position).__name__}")
    plain = a.value_norm is None and not a.keys_as_values
    need(
        plain,
        f"{at}a layer with kv_layer makes no values, so it can't have a norm of values or keys as values",
    )
