"""Derive from a Config the numbers with which its graphs may compute, such as the eps of each norm.

`graph_settings` compares these numbers with what the exporter wrote. So this module uses no code of
`export`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import numpy as np

from ...refimpl.config import (
    Alibi,
    Attention,
    Config,
    Layer,
    MoE,
    RelativeBias,
    Sinusoidal,
    Stack,
    TokenMixer,
    has_mtp,
)
from ...refimpl.config.norms import epsilons as with_eps
from ...refimpl.config.record import Record
from ...refimpl.engine.cache_kinds import CHUNK
from ...refimpl.ops.bias import alibi_slopes, relative_buckets
from ...refimpl.ops.disentangled import distance_rows
from ...refimpl.ops.position import rope_frequencies

# The numbers of activations: mish's is from where on torch takes x for log(1 + exp x).
ACTIVATIONS = {"quick_gelu": (1.702,), "mish": (20.0,)}


def stacks(config: Config) -> dict[str, Stack]:
    """Return the model's stacks of layers, by the name with which their parameters begin, such as `decoder`.
    A module that drafts tokens (MTP) counts as a stack.
    """
    module = {"mtp": config.mtp_decoder.stack} if has_mtp(config) else {}
    return {**config.stacks, **module}


def shared_numbers(config: Config) -> Iterator[float]:
    """Yield the numbers that don't belong to a single layer: numbers of parts outside of layers, and numbers
    that layers derive from the model's width.
    """
    yield from numbers((config.embedding, config.text_embedding, config.head))
    for name, stack in stacks(config).items():
        yield from numbers((stack.stem, stack.positions, stack.first_norm, stack.final_norm))
        yield from _frequencies(stack, config.width(name))
        if stack.altup is not None:
            yield 1 / config.embedding.width
        if any(isinstance(layer.mlp, MoE) and layer.mlp.own_norms for layer in stack.layers):
            yield config.embedding.width**-0.5
    if has_mtp(config):
        yield from numbers(config.mtp)


def _frequencies(stack: Stack, width: int) -> Iterator[float]:
    """Yield the frequencies of the sines and cosines that a graph computes itself."""
    thetas = [stack.positions.theta] if isinstance(stack.positions, Sinusoidal) else []
    thetas += [mixer.wavelengths for mixer in stack.mixers if mixer.wavelengths is not None]
    for theta in dict.fromkeys(thetas):
        yield from rope_frequencies(np.arange(width // 2), theta=theta).tolist()


def integers(part: object) -> Iterator[int]:
    """Yield the integers that a part of a Config states (sizes, windows, counts), and integers derived from
    these.
    """
    if isinstance(part, tuple):
        for one in part:
            yield from integers(one)
    elif isinstance(part, int) and not isinstance(part, bool):
        yield part
    elif isinstance(part, Record):
        for field in fields(part):
            yield from integers(getattr(part, field.name))
        yield from part.integers()
        if isinstance(part, TokenMixer) and part.in_parts:
            yield from (2**i for i in range(CHUNK.bit_length()))  # of a run that is read in parallel


def compared_tokens(config: Config) -> Iterator[int]:
    """Yield the ids of special tokens that a graph compares with the tokens of its input.

    These are a token with a vector of its own, a mask token that is dropped, a token that ends a question,
    a token that ends what a head pools, and a token that ends n-grams.
    """
    embeddings = config.embedding, config.text_embedding
    masks = (one.token_dropout.mask for one in embeddings if one.token_dropout is not None)
    ends = (stack.separator for stack in config.stacks.values())
    mixers = (mixer for stack in stacks(config).values() for mixer in stack.mixers)
    of_mixers = (getattr(mixer, "end", None) for mixer in mixers)
    stated = (*(one.apart for one in embeddings), *masks, *ends, config.head.end, *of_mixers)
    yield from (token for token in stated if token is not None)


def distance_tables(config: Config) -> Iterator[tuple[int, ...]]:
    """Yield the tables of integers that a graph may contain to look up the row of a distance. A table begins
    with the distance 0 and ends with the largest distance that has an element of its own.

    The tables contain the buckets of relative biases, or the shared rows of disentangled attention.
    """
    here = np.zeros(1, np.int64)
    for stack in stacks(config).values():
        for position in dict.fromkeys(a.position for a in stack.attentions):
            if isinstance(position, RelativeBias):
                behind, sizes = np.arange(position.max_distance + 1), {"max_distance": position.max_distance}
                for both in (False, True):
                    rows = relative_buckets(
                        behind[:, None], here, buckets=position.buckets, bidirectional=both, **sizes
                    )
                    yield tuple(rows.ravel().tolist())
        if stack.distances is not None and (until := stack.distances.log_until) is not None:
            span = stack.distances.span
            rows = distance_rows(here, np.arange(until + 1), span=span, log_until=until)  # ahead
            yield tuple((span - rows).ravel().tolist())


def numbers(part: object) -> Iterator[float]:
    """Yield the numbers that a part of a Config computes with.

    These are the part's own floats, the floats of the parts inside it, and numbers derived from sizes.
    """
    if isinstance(part, tuple):
        for one in part:
            yield from numbers(one)
    elif isinstance(part, float):
        yield part
    elif isinstance(part, str):
        yield from ACTIVATIONS.get(part, ())
    elif isinstance(part, Record):
        for field in fields(part):
            yield from numbers(getattr(part, field.name))
        yield from part.numbers()
        if isinstance(part, Attention) and isinstance(part.position, Alibi):
            slopes = alibi_slopes(np.arange(part.heads), max_bias=part.position.max_bias)
            yield from (slopes * part.position.scale).tolist()


def epsilons(config: Config) -> dict[str, float]:
    """Return the eps of each norm with a weight or a bias. A key is the name of the norm's parameter without
    `weight` or `bias`."""
    found: dict[str, float] = {}
    if (table := config.embedding.per_layer) is not None:
        found["embedding.per_layer.norm"] = table.norm.eps
    for name, stack in stacks(config).items():
        found |= {f"{name}.{leaf}": eps for leaf, eps in _of_stack(stack)}
    if has_mtp(config):
        assert config.mtp is not None
        found |= dict.fromkeys(("mtp.token_norm", "mtp.hidden_norm"), config.mtp.norm.eps)
    return found | {f"head.{leaf}": eps for leaf, eps in config.head.epsilons().items()}


def _of_stack(stack: Stack) -> Iterator[tuple[str, float]]:
    distances = stack.distances
    norms = {
        "first_norm": stack.first_norm,
        "norm": stack.final_norm,
        "distances_norm": None if distances is None else distances.norm,
    }
    yield from with_eps(norms).items()
    if stack.stem is not None:
        yield from ((f"stem.{leaf}", eps) for leaf, eps in stack.stem.epsilons())
    for i, layer in enumerate(stack.layers):
        yield from ((f"layers.{i}.{leaf}", eps) for leaf, eps in _of_layer(layer))


def _of_layer(layer: Layer) -> Iterator[tuple[str, float]]:
    for part, sublayer in (("attn", layer.attention), ("cross", layer.cross), ("mlp", layer.mlp)):
        if sublayer is not None:
            yield from with_eps(
                {f"{part}_{name}": norm for name, norm in sublayer.placed_norms.items()}
            ).items()
    yield from ((f"attn.{leaf}", eps) for leaf, eps in layer.attention.epsilons().items())
    if layer.cross is not None and layer.cross.qk_norm is not None:
        yield "cross.k_norm", layer.cross.epsilons()["k_norm"]
    if layer.beside is not None:
        yield from ((f"beside.{leaf}", eps) for leaf, eps in layer.beside.mixer.epsilons().items())
    if layer.conv is not None:
        yield from with_eps({"conv_after": layer.conv.after}).items()
    if layer.per_layer is not None:
        yield from with_eps({"per_layer_post": layer.per_layer.post}).items()
    if layer.laurel is not None:
        yield "laurel.norm", layer.laurel.norm.eps
    if layer.altup is not None:
        yield "altup.norm", layer.altup.norm.eps
    if layer.hyper is not None:
        yield from ((f"{part}_hyper.norm", layer.hyper.norm.eps) for part in ("attn", "mlp"))
    yield from ((f"mlp.{leaf}", eps) for leaf, eps in layer.mlp.epsilons().items())
