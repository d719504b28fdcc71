"""The command `tfm-cli inspect`, which shows a model's architecture and sizes. It reads only the headers of
the model's files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import options as o
from ..console import escape, out, out_json, progress, size, table

if TYPE_CHECKING:
    from ...refimpl.config import Config, Stack
    from ...runtime.hub.model_names import LocatedModel

GROUP = "Make and check models"
CONTEXTS = (1024, 8192, 32_768, 131_072)  # whose caches are shown, and the model's own
EXAMPLES = Path(__file__).parents[1] / "examples"  # public configs, by name


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="The model to show: a bundle, a checkpoint, a config.json, the name of a model to fetch, "
            "or the name of an example config that comes with tfm. The example configs are "
            "llama-3-70b, deepseek-v3 and qwen3.5-9b."
        ),
    ],
    adapter: o.Adapter = None,
    no_adapter: o.NoAdapter = False,
    ignore_key: o.IgnoreKey = None,
    context: o.Context = None,
    as_json: o.AsJson = False,
) -> None:
    """Show a model's architecture, its size in each quantization, and whether it fits into memory here.

    Example: tfm-cli inspect llama-3-70b
    """
    from ...refimpl.config import to_json
    from ...runtime.analysis import sizes
    from ...runtime.hardware import memory
    from ...runtime.hub.locate import adapted, ignoring, locate
    from ...runtime.hub.model_names import CATALOGUE

    examples = {path.stem: path for path in sorted(EXAMPLES.iterdir())}
    path = examples.get(model)
    name = model if path is None or Path(model).exists() else str(path)
    source = locate(name, progress(), (*CATALOGUE, *examples))
    source = ignoring(adapted(source, o.adapter_choice(adapter, no_adapter)), ignore_key or ())
    config, facts, kind = _read(source, context)
    parts, free = sizes.parameters(config), memory()
    weights = sizes.weight_bytes(config)
    needs = {quant: sizes.need(config, count, free, kind) for quant, count in weights.items()}
    savings = sizes.savings(config, weights)
    keeps = "decoder" in config.stacks
    if keeps:
        facts["cache"] = kind
    contexts = sorted({c for c in CONTEXTS if c < config.context} | {config.context})
    widths = {config.kv: 1} if config.rounds_cache else {"fp32": 4, "fp16": 2}
    cache = {
        c: {name: sizes.cache_bytes(config, c, width, kind) for name, width in widths.items()}
        for c in contexts
    }
    plain = {c: sizes.plain_cache_bytes(config, c, 2) for c in contexts}
    total, active = sum(parts.values()), sizes.active_parameters(config)
    if as_json:
        facts |= {"config": to_json(config), "parameters": {"total": total, "active": active, **parts}}
        facts |= {"quantizations": {quant: asdict(one) for quant, one in needs.items()}}
        facts |= {"cache_bytes": cache, "plain_cache_bytes": plain, "available_memory": free}
        facts |= {"savings": {n: {"without": s.without, "with": s.used} for n, s in savings.items()}}
        out_json(facts)
        return
    for name, value in facts.items():
        if shown := _shown(name, value):
            out(f"{name:13} {escape(shown)}")
    out(f"{'architecture':13} {describe(config)}\n")
    if "chosen" in facts:
        units = facts["chosen"]["units"].items()
        rows = [(name, one["format"], size(one["bytes"]), f"{one['loss']:.2g}") for name, one in units]
        table(("WEIGHTS", "FORMAT", "BYTES", "LOSS ALONE"), rows)
        out("a loss is an estimate for these weights alone, with all others in float\n")
    table(("PARAMETERS", "COUNT", "SHARE"), [(n, f"{c:,}", f"{c / total:.1%}") for n, c in parts.items()])
    out(f"{total:,} in all{'' if active == total else f', {active:,} of them for a token'}\n")
    table(
        ("QUANTIZATION", "BYTES", "LONGEST CONTEXT HERE"),
        [
            (quant, size(n.bytes), "doesn't fit" if n.longest_context == 0 else n.longest_context)
            for quant, n in needs.items()
        ],
    )
    out(f"{'unknown' if free is None else size(free)} of memory is free\n")
    if keeps:  # an encoder keeps no keys and values
        table(
            ("CACHE AT", *(name.upper() for name in widths), "PLAIN FP16"),
            [(f"{c} tokens", *map(size, counts.values()), size(plain[c])) for c, counts in cache.items()],
        )
        out("PLAIN is a cache in which each head of each layer has its own keys and values, of all tokens\n")
    table(
        ("WHAT SAVES", "WITHOUT", "WITH", "TIMES LESS"),
        [(n, size(s.without), size(s.used), f"{s.without / s.used:.1f}") for n, s in savings.items()],
    )
    out(
        f"compared with 16-bit numbers; caches are those of {config.context} tokens"
        if keeps
        else "compared with 16-bit numbers"
    )


def _shown(name: str, value: Any) -> str:
    """Return a fact as text for a person."""
    match name:
        case "stored":
            total = sum(value.values())
            return ", ".join(f"{kind} {count / total:.1%}" for kind, count in value.items())
        case "weights":
            return "; ".join(f"{count} {form}" for form, count in Counter(value.values()).most_common())
        case "licence":
            return value or "not stated"
        case "left_out":
            parts = (f"{n}: {p['tensors']} tensors, {size(p['bytes'])}" for n, p in value.items())
            return "; ".join(parts)
        case "bytes":
            return size(value)
        case "read_bytes":
            return f"{size(value)} of weights for a token"
        case "backends":
            return "; ".join(f"{name} {what}" for name, what in value.items())
        case "notices" | "ignored_keys":
            return ", ".join(value) or "none"
        case "refused":
            return "; ".join(value)
        case "rounded_over":
            return f"{value} tokens, with feedback"
        case "chosen":
            return (
                f"for {value['budget']}; all together lose {value['loss']:.2g} over {value['tokens']} tokens"
            )
        case _:
            return value


def _read(source: LocatedModel, context: int | None) -> tuple[Config, dict[str, Any], str]:
    """Return the Config, facts about the other files, and the kind of cache on ONNX Runtime."""
    from ...runtime.bundle import operator_limits, targets

    facts: dict[str, Any] = {"name": source.name, "kind": source.kind}
    if source.kind == "bundle":
        from ...runtime.bundle import golden_files
        from ...runtime.bundle.bundle import open_bundle
        from ...runtime.bundle.kept_weights import by_weight, chosen_formats
        from ...runtime.hub.cache_dir import bytes_in
        from ...runtime.kernels.library import INSTRUCTION_SETS
        from ...runtime.ort import kernel_backend
        from ...runtime.verification.certificate import recorded
        from ...runtime.verification.golden import load as golden_arrays
        from ...runtime.verification.verdict import found, summary
        from ..model_loading import expect, say_replaced_code

        bundle = open_bundle(source.path, check_hashes=False)
        expect(bundle, None, context)
        say_replaced_code(bundle.code_replaced_by)
        facts |= {"quant": bundle.quant, "target": bundle.target, "bytes": bytes_in(bundle.path)}
        library = kernel_backend.library_for(bundle)
        facts["read_bytes"] = bundle.plan.size if isinstance(library, str) else bundle.read_size
        facts["kernels"] = library if isinstance(library, str) else library.instruction_set
        if (kept := kernel_backend.cache_type(bundle)) is not None and not kernel_backend.without_graphs(
            bundle
        ):
            facts["kernel_cache"] = kept
        same_bits = kernel_backend.same_bits(bundle)
        facts["same_bits"] = f"{same_bits} by {', '.join(INSTRUCTION_SETS)}" if same_bits else str(same_bits)
        facts |= {"weights": by_weight(bundle.manifest), "refused": list(bundle.refused)}
        over = golden_files.file_of(golden_files.ROUNDING)
        if over in bundle.manifest.files and (text := golden_arrays(bundle).rounding) is not None:
            facts["rounded_over"] = text.size
        if bundle.manifest.chosen is not None:
            facts["chosen"] = chosen_formats(bundle.manifest)
        facts |= {"licence": bundle.manifest.source.licence, "notices": bundle.manifest.notices}
        if left_out := bundle.manifest.source.left_out:
            facts["left_out"] = {name: asdict(part) for name, part in left_out.items()}
        if bundle.manifest.source.ignored_keys:
            facts["ignored_keys"] = list(bundle.manifest.source.ignored_keys)
        if bundle.manifest.adapter is not None:
            facts["adapter"] = bundle.manifest.adapter.name
        report = recorded(bundle.path)
        facts["verified"] = summary(report)
        if report is not None and (backends := report.check("backends")):
            facts["backends"] = {row.name: found(row) or row.result for row in backends.rows}
        return bundle.config, facts, bundle.cache
    if source.kind == "config":
        config = _read_config(source.path)
        if context is not None:
            config = replace(config, context=context)
        return config, facts, operator_limits.cache(targets.for_device("cpu"), config)
    from ..model_loading import opened_at, say_replaced_code, with_notes

    checkpoint = with_notes(opened_at(source)).for_context(context)
    say_replaced_code(checkpoint.code_replaced_by)
    cache = operator_limits.cache(targets.for_device("cpu"), checkpoint.config)
    facts |= {"stored": checkpoint.stored}
    facts |= {"licence": checkpoint.licence.stated, "notices": list(checkpoint.licence.files)}
    if checkpoint.left_out:
        facts["left_out"] = {name: asdict(part) for name, part in checkpoint.left_out.items()}
    if checkpoint.ignored_keys:
        facts["ignored_keys"] = list(checkpoint.ignored_keys)
    if checkpoint.adapter is not None:
        facts["adapter"] = f"{checkpoint.adapter.path.name}, changes {len(checkpoint.changed)} weights"
    return checkpoint.config, facts, cache


def _read_config(path: Path) -> Config:
    from ...refimpl.checkpoint.custom_code import replaced_by
    from ...refimpl.checkpoint.families import read_config, with_model_type
    from ...refimpl.checkpoint.formats.file_bytes import read_file
    from ...refimpl.checkpoint.formats.strict_json import parse
    from ..model_loading import say_replaced_code

    file = path / "config.json" if path.is_dir() else path
    values = with_model_type(parse(read_file(file, 2**20), str(file), tagged=True))
    config, _ = read_config(values, str(file))
    say_replaced_code(replaced_by(values))
    return config


def describe(config: Config) -> str:
    """Describe the architecture in one line. If the layers differ, describe the first layer and say that the
    layers differ.
    """
    from ...refimpl.config import EncoderDecoder, has_mtp, longer_context

    embedding, head = config.embedding, config.head
    stacks = "; ".join(_stack(name, stack, config.width(name)) for name, stack in config.stacks.items())
    if has_mtp(config):
        stacks += "; mtp: a module of one layer, for --draft mtp"
    context = str(config.context)
    if isinstance(config, EncoderDecoder) and config.text_context != config.context:
        context += f" (encoder {config.text_context})"
    if scaling := longer_context(config):
        context += f" (longer texts by {scaling}: --context N)"
    return f"{stacks}, context {context}, vocabulary {embedding.vocabulary}{head.describe()}"


def _stack(name: str, stack: Stack, width: int) -> str:
    layers, first = stack.layers, stack.layers[0]
    a, kinds = first.attention, len(set(layers))
    mixed = f" of {kinds} kinds, the first:" if kinds > 1 else ","
    norms = stack.final_norm, *a.placed_norms.values(), stack.hyper and stack.hyper.norm
    norm = type(next(filter(None, norms), None)).__name__
    added = None if stack.positions is None else stack.positions.describe()
    position = a.describe_positions() or added or "no positions"
    mlp = first.mlp.describe()
    beside = "" if first.beside is None else f", beside {first.beside.mixer.describe()}"
    for what, count in Counter(mixer.borrows() for mixer in stack.mixers).items():
        mixed = mixed if what is None else f", {count} of them with {what},{mixed}"
    own = first.per_layer
    heard = stack.stem
    vectors = "" if heard is None else f", {heard.describe()}"
    vectors += "" if own is None else f", {own.width} numbers of each token for each layer"
    if stack.streams > 1:
        vectors += f", {stack.streams} streams of each token"
    if first.laurel is not None:
        vectors += f", learned residuals of rank {first.laurel.rank}"
    sparse = [share for layer in layers if (share := getattr(layer.mlp, "sparsity", None)) is not None]
    if sparse:
        vectors += f", {len(sparse)} layers with {max(sparse):.0%} of the mlp's units at 0"
    mixer = a.describe() + beside
    return f"{name}, {len(layers)} layers{mixed} width {width}, {mixer}, {mlp}, {norm}, {position}{vectors}"
