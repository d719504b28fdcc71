"""Compute the size of a model: its parameters, the bytes of weights and cache, and the longest text that fits
in memory.

Everything is computed from the Config, without reading weights.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

from ...refimpl.config import (
    Attention,
    Config,
    Layer,
    MoE,
    Window,
)
from ...refimpl.engine.cache_kinds import cache_kinds, layer_kind
from ...refimpl.params.parameter_shapes import ParameterShapes
from ..bundle import schemes
from ..bundle.plan import Plan
from ..bundle.targets import TARGETS

# ONNX Runtime, the tokenizer, NumPy and the buffers of one step, beside weights and cache.
RUNNER_BYTES = 200_000_000
SCALE_BYTES = 2  # a float16 for each head of a token, where a cache holds integers


@dataclass(frozen=True)
class Need:
    """The memory that a model needs.

    - `bytes`: the bytes of the weights.
    - `fits`: True if the weights and the cache of the whole context fit in the free memory.
    - `longest_context`: the length of the longest text for which the cache fits beside the weights.

    The last two are None if the free memory isn't known.
    """

    bytes: int
    fits: bool | None
    longest_context: int | None


@dataclass(frozen=True)
class Saving:
    """The effect of a technique on memory: the bytes `without` the technique, and the bytes `used` with
    it.
    """

    without: int
    used: int


def parameters(config: Config) -> dict[str, int]:
    """Count the parameters of each part of the model, such as "attention" or "mlp". A part without parameters
    is left out.
    """
    counts: dict[str, int] = dict.fromkeys(
        ("embedding", "attention", "mlp", "residual", "norms", "output"), 0
    )
    for name, shape in ParameterShapes(config).items():
        counts[_part(name)] += prod(shape)
    return {part: count for part, count in counts.items() if count}


def _part(name: str) -> str:
    """Return the name of the part to which a parameter belongs."""
    owner, leaf = name.split(".")[-2:]
    if leaf == "positions" or (owner == "per_layer" and leaf != "norm"):
        return "embedding"
    if ".streams." in name or owner in ("laurel", "altup", "attn_hyper", "mlp_hyper", "join"):
        return "residual"
    if leaf in ("relative_bias", "global_relative_bias", "distances", "segments") or owner == "conv":
        return "attention"
    if leaf not in ("q_norm", "k_norm", "kv_norm", "out_norm", "down_norm"):
        if ".mlp." in name or (".mlps." in name and owner != "after"):  # an expert's leaves lie deeper
            return "mlp"
        if owner in ("attn", "cross"):
            return "attention"
    if name.startswith("head."):
        return "output"
    return "embedding" if owner in ("embedding", "encoder_embedding") else "norms"


def active_parameters(config: Config) -> int:
    """Count the parameters that one token uses. In a mixture of experts, only the experts to which the token
    is routed count.
    """
    mlps = [layer.mlp for stack in config.stacks.values() for layer in stack.layers]
    idle = sum(
        max(m.experts - m.top, 0) * _expert(m, config.embedding.width) for m in mlps if isinstance(m, MoE)
    )
    return sum(parameters(config).values()) - idle


def _expert(m: MoE, width: int) -> int:
    """Return the number of parameters of one expert."""
    inner, into = m.latent or width, 2 if m.gated else 1
    return (into + 1) * m.width * inner + (into * m.width + inner if m.expert_bias else 0)


def weight_bytes(config: Config) -> dict[str, int]:
    """Return a dict from each quantization to the bytes of weights that `export` would store.

    The dict contains only quantizations for which the shapes alone determine the size.
    """
    counts, shapes = {}, ParameterShapes(config)
    for scheme in schemes.SCHEMES.values():
        if not scheme.needs_only_shapes:
            continue
        target = next(target for target in TARGETS.values() if target.name not in scheme.refused)
        tensors = Plan.of(shapes, scheme, target).tensors
        counts[scheme.name] = sum(tensor.length for tensor in tensors.values())
    return counts


def cache_bytes(config: Config, context: int, width: int, kind: str = "shared") -> int:
    """Return the bytes that the cache of one text of `context` tokens takes, at `width` bytes per number.

    Layers that keep keys and values as codes of 8 or 4 bits take one byte or half a byte per number. A
    windowed cache keeps little more than the tokens of its windows. A copied cache exists twice.
    """
    kinds = cache_kinds(config, windowed=kind == "windowed")
    total = sum(layer.nbytes(context, width) for layer in kinds)
    return 2 * total if kind == "copied" else total


def plain_cache_bytes(config: Config, context: int, width: int) -> int:
    """Return the bytes that the cache would take if each head of each layer kept the keys and values of all
    tokens.

    This is for comparison. A layer that keeps a state is replaced by the model's attention. If the model
    has no attention, such a layer doesn't count.
    """
    own = sum(layer.attention.plain_numbers() for layer in _attending(config))
    return own * context * width


def _attending(config: Config) -> list[Layer]:
    """Return the layers, with each mixer that keeps a state replaced by the model's attention, if the model
    has any.
    """
    attention = next((x.attention for x in config.layers if isinstance(x.attention, Attention)), None)
    return [
        layer
        if attention is None or layer.attention.keeps == "tokens"
        else replace(layer, attention=attention)
        for layer in config.layers
    ]


def savings(config: Config, weights: Mapping[str, int]) -> dict[str, Saving]:
    """Return a dict from each technique that saves memory to the bytes without it and with it, in 16-bit
    numbers.

    Everything else is as in the Config. A token reads only the weights of the experts to which it is
    routed. Caches are computed as in the specification: a layer with a window keeps only the tokens in the
    window, and integer codes have one scale for each head of each token.
    """

    def cache(
        layers: Iterable[Layer] = config.layers,
        *,
        shared: bool = True,
        grouped: bool = True,
        latent: bool = True,
        windowed: bool = False,
        bits: int = 16,
    ) -> int:
        return sum(
            _spec_cache_bytes(layer, config.context, grouped, latent, windowed, bits)
            for layer in layers
            if layer.kv_layer is None or not shared
        )

    both = {f"{bits} weights": Saving(weights["fp16"], weights[bits]) for bits in ("int8", "int4")}
    both["mixture, weights a token"] = Saving(
        2 * sum(parameters(config).values()), 2 * active_parameters(config)
    )
    both["grouped queries, cache"] = Saving(cache(grouped=False), cache())
    both["shared keys and values, cache"] = Saving(cache(shared=False), cache())
    both["latents, cache"] = Saving(cache(latent=False), cache())
    both["states, cache"] = Saving(cache(_attending(config)), cache())
    both["window, cache"] = Saving(cache(), cache(windowed=True))
    both["int8 cache"] = Saving(cache(), cache(bits=8))
    both["int4 cache"] = Saving(cache(), cache(bits=4))
    return {name: saving for name, saving in both.items() if saving.used < saving.without}


def _spec_cache_bytes(
    layer: Layer, context: int, grouped: bool, latent: bool, windowed: bool, bits: int
) -> int:
    """Return the bytes of a layer's keys and values as the specification keeps them, or of its state in 16
    bits.

    Without `latent`, a layer of latent attention keeps the keys and values of each head.
    """
    attention, tokens = layer.attention, context
    if layer.beside is not None:
        alone = _spec_cache_bytes(replace(layer, beside=None), context, grouped, latent, windowed, bits)
        return alone + layer_kind(replace(layer, attention=layer.beside.mixer), context).nbytes(context, 2)
    if not isinstance(attention, Attention):
        if not latent and attention.keeps == "tokens":
            return 2 * tokens * attention.plain_numbers()
        return layer_kind(layer, context).nbytes(context, 2)
    if windowed and isinstance(attention.mask, Window):
        tokens = min(attention.mask.size, context)
    heads = attention.kv_heads if grouped else attention.heads
    scale = 0 if bits == 16 else SCALE_BYTES
    return 2 * heads * tokens * (attention.head_size * bits // 8 + scale)


def need(config: Config, weights: int, free: int | None, kind: str = "shared") -> Need:
    """Return whether weights of `weights` bytes and a float32 cache fit in `free` bytes of memory, and the
    longest text that fits.
    """
    if free is None:
        return Need(weights, None, None)
    cache_room = free - weights - RUNNER_BYTES

    def cache(context: int) -> int:
        return cache_bytes(config, context, 4, kind)

    # An encoder keeps nothing from token to token: its cache has 0 bytes.
    longest = max(0, bisect_right(range(config.context + 1), cache_room, key=cache) - 1)
    return Need(weights, longest == config.context, longest)
