"""`tfm-cli inspect`: what a model is and what it needs, from its headers alone."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..console import out, out_json, say, size, table
from ..options import Context

if TYPE_CHECKING:
    from ...refimpl.config import Attention, Config, Stack
    from ...runtime.hub.model_names import Source

# ONNX Runtime, the tokenizer, NumPy and the buffers of one step, over weights and cache.
RUNNER_BYTES = 200_000_000
EXAMPLES = Path(__file__).parent / "examples"  # public configs, by name
SCALE_BYTES = 2  # a float16 for each head of a token, where a cache holds integers

GROUP = "Make and check models"


def command(
    model: Annotated[
        str,
        typer.Argument(help="A bundle, a checkpoint, a bare config.json, a name to fetch, or llama-3-70b."),
    ],
    context: Context = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what a model is made of, its bytes in each quantization, and whether it fits this machine."""
    from ...refimpl.config import to_json
    from ...runtime.hardware import memory
    from ...runtime.hub.model_names import locate

    example = EXAMPLES / f"{model}.json"
    known = not Path(model).exists() and example in EXAMPLES.iterdir()
    source = locate(str(example) if known else model, say)
    config, facts, kind = _read(source, context)
    parts, room = parameters(config), memory()
    weights = weight_bytes(config)
    needs = {quant: need(config, count, room, kind) for quant, count in weights.items()}
    saved = savings(config, weights)
    if config.layers:
        facts["cache"] = kind
    contexts = sorted({c for c in (1024, 4096, 16384, 65536) if c < config.context} | {config.context})
    widths = {"int8": 1} if config.rounds_cache else {"fp32": 4, "fp16": 2}
    cache = {
        c: {kept: cache_bytes(config, c, width, kind) for kept, width in widths.items()} for c in contexts
    }
    if as_json:
        counts = {"total": sum(parts.values()), "active": active(config), **parts}
        facts |= {"config": to_json(config), "parameters": counts}
        facts |= {"quantizations": needs, "cache_bytes": cache, "available_memory": room}
        out_json(facts | {"savings": saved})
        return
    for name, value in facts.items():
        out(f"{name:13} {value}")
    out(f"{'architecture':13} {describe(config)}\n")
    total = sum(parts.values())
    table(("PARAMETERS", "COUNT", "SHARE"), [(n, f"{c:,}", f"{c / total:.1%}") for n, c in parts.items()])
    used = active(config)
    out(f"{total:,} in all{'' if used == total else f', {used:,} of them for a token'}\n")
    table(
        ("QUANTIZATION", "BYTES", "LONGEST CONTEXT HERE"),
        [
            (q, size(n["bytes"]), "doesn't fit" if n["longest_context"] == 0 else n["longest_context"])
            for q, n in needs.items()
        ],
    )
    out(f"{'unknown' if room is None else size(room)} of memory is free\n")
    table(
        ("CACHE AT", *(kept.upper() for kept in widths)),
        [(f"{c} tokens", *map(size, b.values())) for c, b in cache.items()],
    )
    out()
    table(
        ("WHAT SAVES", "WITHOUT", "WITH", "TIMES LESS"),
        [
            (n, size(b["without"]), size(b["with"]), f"{b['without'] / b['with']:.1f}")
            for n, b in saved.items()
        ],
    )
    out(f"beside 16-bit numbers; caches of {config.context} tokens" if config.layers else "beside 16 bits")


def _read(source: Source, context: int | None) -> tuple[Config, dict[str, Any], str]:
    """The Config, what is known of the files beside it, and the kind of cache that ONNX Runtime gets."""
    from ...runtime.bundle import operator_limits, targets

    facts: dict[str, Any] = {"name": source.name, "kind": source.kind}
    if source.kind == "bundle":
        from ...runtime.bundle.bundle import open_bundle
        from ..model_loading import fits

        bundle = open_bundle(source.path, check_hashes=False)
        fits(bundle, None, context)
        return bundle.config, facts | {"quant": bundle.quant, "target": bundle.target}, bundle.cache
    if source.kind == "config":
        bare = _bare(source.path)
        bare = bare if context is None else replace(bare, context=context)
        return bare, facts, operator_limits.cache(targets.for_device("cpu"), bare)
    from ...refimpl.checkpoint.open import open_checkpoint

    checkpoint = open_checkpoint(source.path).for_context(context)
    cache = operator_limits.cache(targets.for_device("cpu"), checkpoint.config)
    return checkpoint.config, facts | {"stored": checkpoint.float_dtype}, cache


def _bare(path: Path) -> Config:
    from ...refimpl.families import read_config
    from ...refimpl.formats.mapped_file import read_file
    from ...refimpl.formats.strict_json import parse

    file = path / "config.json" if path.is_dir() else path
    return read_config(parse(read_file(file, 2**20), str(file)), str(file))[0]


def parameters(config: Config) -> dict[str, int]:
    """Part -> number of parameters."""
    from ...refimpl.params.shapes import shapes

    counts: dict[str, int] = dict.fromkeys(("embedding", "attention", "mlp", "norms", "output"), 0)
    for name, shape in shapes(config).items():
        owner, last = name.split(".")[-2:]
        part = "output" if name.startswith("head.") else "embedding" if owner == "embedding" else "norms"
        if last not in ("q_norm", "k_norm"):
            part = {"attn": "attention", "cross": "attention", "mlp": "mlp"}.get(owner, part)
            part = "mlp" if ".mlp." in name else part  # an expert's leaves lie deeper
        part = {"positions": "embedding", "relative_bias": "attention"}.get(last, part)
        counts[part] += prod(shape)
    return {part: count for part, count in counts.items() if count}


def active(config: Config) -> int:
    """Number of parameters that a token meets: of a mixture's experts those that it is sent to."""
    from ...refimpl.config import MoE
    from ...refimpl.params.shapes import shapes

    total = sum(map(prod, shapes(config).values()))
    mlps = [layer.mlp for stack in config.stacks.values() for layer in stack.layers]
    idle = sum(3 * m.width * (m.experts - m.top) for m in mlps if isinstance(m, MoE))
    return total - idle * config.embedding.width


def weight_bytes(config: Config) -> dict[str, int]:
    """Scheme -> bytes of the weights in a bundle: what `export` would store, without the weights."""
    from ...runtime.bundle import schemes, weight_layout
    from ...runtime.bundle.targets import TARGETS
    from ...runtime.bundle.weight_formats import formats

    sizes = {}
    for scheme in schemes.SCHEMES.values():
        if not scheme.needs_only_shapes:
            continue
        target = next(target for target in TARGETS.values() if target.name not in scheme.refused)
        groups = weight_layout.stored(config, formats(config, scheme, target), target)
        dtype = schemes.float_type(scheme, target)
        specs = (spec for group in groups.values() for spec in weight_layout.specs(group, dtype).values())
        sizes[scheme.name] = sum(spec.length for spec in specs)
    return sizes


def cache_bytes(config: Config, context: int, width: int, kind: str = "shared") -> int:
    """Bytes of keys and values of one text of `context` tokens, `width` bytes a number, or one where kept so.

    A windowed cache keeps little more than its windows; of a copied one there are two.
    """
    from ...runtime.bundle import window_sizes

    total = 0
    for i, layer in enumerate(config.layers):
        a = layer.attention
        tokens = window_sizes.places(
            window_sizes.of_layer(config, i) if kind == "windowed" else None, context
        )
        total += 2 * a.kv_heads * a.head_size * tokens * (1 if a.kv == "int8" else width)
    return 2 * total if kind == "copied" else total


def savings(config: Config, weights: dict[str, int]) -> dict[str, dict[str, int]]:
    """What makes a model smaller -> bytes without and with it, all else being as the Config says, in 16 bits.

    A token reads the weights of the experts that it is sent to. Caches are those of the specification:
    a window keeps no token outside of it, and integers have a scale for each head of a token.
    """
    from ...refimpl.config import Window

    attentions = [layer.attention for layer in config.layers]

    def cache(groups: bool = True, window: bool = False, bits: int = 16) -> int:
        def one(a: Attention) -> int:
            tokens = min(a.mask.size, config.context) if window and isinstance(a.mask, Window) else None
            heads = a.kv_heads if groups else a.heads
            scale = 0 if bits == 16 else SCALE_BYTES
            return 2 * heads * (tokens or config.context) * (a.head_size * bits // 8 + scale)

        return sum(map(one, attentions))

    found = {f"{bits} weights": (weights["fp16"], weights[bits]) for bits in ("int8", "int4")}
    found["mixture, weights a token"] = (2 * sum(parameters(config).values()), 2 * active(config))
    found["grouped queries, cache"] = cache(groups=False), cache()
    found["window, cache"] = cache(), cache(window=True)
    found |= {f"int{bits} cache": (cache(), cache(bits=bits)) for bits in (8, 4)}
    return {name: {"without": a, "with": b} for name, (a, b) in found.items() if b < a}


def need(config: Config, weights: int, room: int | None, kind: str = "shared") -> dict[str, Any]:
    """What a scheme needs, and the longest context that fits the free memory with a float32 cache."""
    if room is None:
        return {"bytes": weights, "fits": None, "longest_context": None}
    left = room - weights - RUNNER_BYTES
    # An encoder keeps nothing from token to token.
    cache = lambda context: cache_bytes(config, context, 4, kind)  # noqa: E731
    longest = max(0, bisect_right(range(config.context + 1), left, key=cache) - 1)
    return {"bytes": weights, "fits": longest == config.context, "longest_context": longest}


def describe(config: Config) -> str:
    """The architecture in a line; where layers differ, the first stands for all, and it says so."""
    from ...refimpl.config import LM, MaskedLM

    e, head = config.embedding, config.head
    tied = isinstance(head, LM | MaskedLM) and head.tied
    parts = [_stack(name, stack, e.width) for name, stack in config.stacks.items()]
    vocabulary = f"{e.vocabulary}{' (tied)' if tied else ''}"
    return f"{'; '.join(parts)}, context {config.context}, vocabulary {vocabulary}"


def _stack(name: str, stack: Stack, width: int) -> str:
    from ...refimpl.config import Alibi, Learned, MoE, RelativeBias, Rope, Sinusoidal

    layers, first = stack.layers, stack.layers[0]
    a, kinds = first.attention, len(set(layers))
    mixed = f" of {kinds} kinds, the first:" if kinds > 1 else ""
    norm = type(stack.final_norm or a.pre or a.after).__name__
    match a.position or stack.positions:
        case Rope(theta):
            position = f"rotary {theta:g}"
        case Alibi():
            position = "ALiBi"
        case RelativeBias(buckets):
            position = f"relative bias of {buckets} buckets"
        case Learned(size):
            position = f"{size} learned positions"
        case Sinusoidal():
            position = "sinusoidal positions"
        case None:
            position = "no positions"
    m = first.mlp
    kind = f"{m.top} of {m.experts} gated" if isinstance(m, MoE) else type(m).__name__.lower()
    mlp = f"{kind} mlp{'s' if isinstance(m, MoE) else ''} {m.width} ({m.activation})"
    return (
        f"{name}, {len(layers)} layers{mixed} width {width}, {a.heads} heads of "
        f"{a.head_size} in {a.kv_heads} groups, {mlp}, {norm}, {position}"
    )
