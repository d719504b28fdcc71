"""Derive from a Config the numbers that its graphs must hold: each norm's eps, and other numbers of layers.

This module uses no code of `export`, since its numbers check what the exporter wrote (`graph_settings`).
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
    """Return the stacks, by the first part of their parameters' names; a module for drafts is one of them."""
    module = {"mtp": config.mtp_decoder.stack} if has_mtp(config) else {}
    return {**config.stacks, **module}


def shared_numbers(config: Config) -> Iterator[float]:
    """Yield the numbers of the parts outside of layers, and the numbers that layers derive from the model's
    width.
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
    """Those of the sines and cosines that a graph computes itself."""
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
    """Yield the tokens that a graph compares its own with.

    They are one with a vector apart, a mask that is dropped, and the ends of a question and of what a head
    pools.
    """
    embeddings = config.embedding, config.text_embedding
    masks = (one.token_dropout.mask for one in embeddings if one.token_dropout is not None)
    ends = (stack.separator for stack in config.stacks.values())
    stated = (*(one.apart for one in embeddings), *masks, *ends, config.head.end)
    yield from (token for token in stated if token is not None)


def distance_tables(config: Config) -> Iterator[tuple[int, ...]]:
    """Yield the tables of integers that a graph may contain to look up something by distance, from 0 to the
    largest distinct distance.

    The tables hold the buckets of relative biases, and the shared rows of disentangled attention.
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

    These are its own floats, the floats of its parts, and numbers derived from sizes.
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
    """Return the eps of each norm with a weight or a bias, by its parameter's name without `weight` or
    `bias`."""
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
    yield from ((f"mlp.{leaf}", eps) for leaf, eps in layer.mlp.epsilons().items())
