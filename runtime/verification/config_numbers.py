"""Which numbers a Config says that its graphs hold: the eps of each norm, and what else layers compute with.

Nothing here is taken from `export`: what the exporter wrote is compared with it (`graph_settings`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from statistics import NormalDist

import numpy as np

from ...refimpl.config import (
    XIELU,
    Alibi,
    AltUp,
    Attention,
    BigBirdBlocks,
    Config,
    Distances,
    Embedding,
    Gated,
    Laurel,
    Layer,
    Learned,
    MoE,
    PerLayerEmbedding,
    PerLayerInput,
    Plain,
    Pool,
    QueryScale,
    QuestionAnswering,
    RelativeBias,
    Sinusoidal,
    SparseMixer,
    Stack,
    TokenMixer,
    has_mtp,
)
from ...refimpl.config.record import Record
from ...refimpl.engine.cache_kinds import CHUNK
from ...refimpl.ops.bias import alibi_slopes
from ...refimpl.ops.position import rope_frequencies


def stacks(config: Config) -> dict[str, Stack]:
    """The stacks by the first part of their leaves' names, that of a module for drafts too."""
    module = {"mtp": config.mtp_decoder.stack} if has_mtp(config) else {}
    return {**config.stacks, **module}


def shared_numbers(config: Config) -> Iterator[float]:
    """The numbers of what isn't in a layer, and those that layers make of the model's width."""
    yield from numbers((config.embedding, config.head))
    for stack in stacks(config).values():
        yield from numbers((stack.positions, stack.first_norm, stack.final_norm))
        yield from _frequencies(stack, config.embedding.width)
        if stack.altup is not None:
            yield 1 / config.embedding.width
        if any(isinstance(layer.mlp, MoE) and layer.mlp.own_norms for layer in stack.layers):
            yield config.embedding.width**-0.5
    if has_mtp(config):
        yield from numbers(config.mtp)


def _frequencies(stack: Stack, width: int) -> Iterator[float]:
    """Those of the sines and cosines that a graph computes itself."""
    thetas = [stack.positions.theta] if isinstance(stack.positions, Sinusoidal) else []
    thetas += [mixer.wavelengths for mixer in stack.mixers if mixer.wavelengths is not None]
    for theta in dict.fromkeys(thetas):
        yield from rope_frequencies(np.arange(width // 2), theta=theta).tolist()


def integers(part: object) -> Iterator[int]:
    """The integers that a part of a Config states, sizes, windows and counts, and what follows from them."""
    if isinstance(part, tuple):
        for one in part:
            yield from integers(one)
    elif isinstance(part, int) and not isinstance(part, bool):
        yield part
    elif isinstance(part, Record):
        for field in fields(part):
            yield from integers(getattr(part, field.name))
        match part:
            case Learned(size=size, offset=offset):
                yield size + offset
            case RelativeBias(buckets=buckets):
                yield buckets // 2  # of each direction
            case Distances(span=span):
                yield 2 * span
            case BigBirdBlocks():
                yield part.longest_whole
            case TokenMixer(in_parts=True):
                yield from (2**i for i in range(CHUNK.bit_length()))  # of a run that is read in parallel
            case _:
                pass


def numbers(part: object) -> Iterator[float]:
    """The numbers that a part of a Config computes with: its own floats, those of its parts, and what follows
    from sizes."""
    if isinstance(part, tuple):
        for one in part:
            yield from numbers(one)
    elif isinstance(part, float):
        yield part
    elif isinstance(part, Record):
        for field in fields(part):
            yield from numbers(getattr(part, field.name))
        yield from _derived(part)


def _derived(part: Record) -> Iterator[float]:
    """What follows from the settings of one part, by the formulas of `refimpl.ops`."""
    match part:
        case TokenMixer():
            yield from part.numbers()
            if isinstance(part, Attention) and isinstance(part.position, Alibi):
                slopes = alibi_slopes(np.arange(part.heads), max_bias=part.position.max_bias)
                yield from (slopes * part.position.scale).tolist()
        case AltUp():
            yield from (1e-5, float(part.streams))
        case Laurel():
            yield 0.5**0.5
        case Gated(sparsity=float(sparsity)):
            yield NormalDist().inv_cdf(sparsity)
        case Gated(activation="quick_gelu") | Plain(activation="quick_gelu"):
            yield 1.702
        case Gated(activation="mish") | Plain(activation="mish"):
            yield 20.0  # from where on torch takes x for log(1 + exp x)
        case BigBirdBlocks(random_blocks=times):
            yield np.log(1 + times)  # of a block that is seen more than once
        case SparseMixer(jitter=jitter):
            yield 2 * jitter
        case Plain(activation=XIELU()):
            yield XIELU.eps
        case Embedding(width=width, per_layer=PerLayerEmbedding()):
            yield from (width**-0.5, 2**-0.5)
        case QueryScale(original_context=context, offset=offset):
            yield from (float(context), float(offset))
        case PerLayerInput(width=width):
            yield width**0.5
        case Pool(unit=True):
            yield 1e-12
        case _:
            pass


def epsilons(config: Config) -> dict[str, float]:
    """The eps of each norm that has a weight or a bias, by the leaf's name without `weight` or `bias`."""
    found: dict[str, float] = {}
    if (table := config.embedding.per_layer) is not None:
        found["embedding.per_layer.norm"] = table.norm.eps
    for name, stack in stacks(config).items():
        found |= {f"{name}.{leaf}": eps for leaf, eps in _of_stack(stack)}
    if has_mtp(config):
        assert config.mtp is not None
        found |= dict.fromkeys(("mtp.token_norm", "mtp.hidden_norm"), config.mtp.norm.eps)
    if config.head.dense is not None and config.head.dense.norm is not None:
        found["head.norm"] = config.head.dense.norm.eps
    if isinstance(config.head, QuestionAnswering) and config.head.mlp is not None:
        found |= {f"head.{leaf}": eps for leaf, eps in _around("mlp", config.head.mlp)}
    return found


def _of_stack(stack: Stack) -> Iterator[tuple[str, float]]:
    distances = stack.distances
    norms = {
        "first_norm": stack.first_norm,
        "norm": stack.final_norm,
        "distances_norm": None if distances is None else distances.norm,
    }
    yield from ((leaf, norm.eps) for leaf, norm in norms.items() if norm is not None)
    for i, layer in enumerate(stack.layers):
        yield from ((f"layers.{i}.{leaf}", eps) for leaf, eps in _of_layer(layer))


def _of_layer(layer: Layer) -> Iterator[tuple[str, float]]:
    for part, sublayer in (("attn", layer.attention), ("cross", layer.cross), ("mlp", layer.mlp)):
        if sublayer is not None:
            yield from _around(part, sublayer)
    yield from ((f"attn.{leaf}", eps) for leaf, eps in layer.attention.epsilons().items())
    if layer.beside is not None:
        yield from ((f"beside.{leaf}", eps) for leaf, eps in layer.beside.mixer.epsilons().items())
    if layer.conv is not None:
        yield "conv_after", layer.conv.after.eps
    if layer.per_layer is not None and layer.per_layer.post is not None:
        yield "per_layer_post", layer.per_layer.post.eps
    if layer.laurel is not None:
        yield "laurel.norm", layer.laurel.norm.eps
    if layer.altup is not None:
        yield "altup.norm", layer.altup.norm.eps
    if isinstance(layer.mlp, Gated) and layer.mlp.down_norm is not None:
        yield "mlp.down_norm", layer.mlp.down_norm.eps
    if isinstance(layer.mlp, MoE) and (own := layer.mlp.own_norms) is not None:
        names = ("router_norm", "experts_pre", "experts_post", "shared_pre", "shared_post")
        yield from ((f"mlp.{name}", own.eps) for name in names)


def _around(part: str, sublayer: Record) -> Iterator[tuple[str, float]]:
    """The norms before and after a sublayer."""
    norms = ((side, getattr(sublayer, side)) for side in ("pre", "post", "after"))
    yield from ((f"{part}_{side}", norm.eps) for side, norm in norms if norm is not None)
