"""Bundles of all tiny models that nobody changed, verified: each row that fails is a false alarm.

    PYTHONPATH=tests python -m reports.false_alarms [--quick] [--seed N] [--only NAME ...] [--quants ...]

All checks run, also those of `--full` and `--source`. Prints each bundle with its failed rows, and at the end
SECURITY.md's table: by form of model and quantization, how many bundles were verified, how many rows judged
them, and how many of these rows failed.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse
import inspect
import tempfile
from collections import Counter
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import get_args
from unittest.mock import patch

from helpers import kept_blocks, text_strategies, tiny_models
from tfm.export import bundle_writer
from tfm.refimpl.checkpoint.open import Checkpoint, open_checkpoint, save_checkpoint
from tfm.refimpl.config import Attention, Config, Decoder, Encoder, MoE
from tfm.refimpl.errors import ExportError
from tfm.runtime.verification.verify import verify

KEPT = {"wq": (False, 4), "wo": (True, 4), "gate": (False, 4), "down": (True, 4)}  # with minima, in bits
QUANTS = ("fp32", "int8", "int8-dynamic", "int4", "keep")
KINDS = get_args(Config)
TOKENIZER = text_strategies.byte_level()


def configs() -> dict[str, Config]:
    """Each tiny model that needs no argument, by its name; for the tokenizer where its vocabulary is free."""
    found = {name: f for name, f in vars(tiny_models).items() if inspect.isfunction(f)}
    made = {}
    for name, make in found.items():
        parameters = inspect.signature(make).parameters
        if make.__annotations__.get("return") in KINDS and all(
            p.default is not p.empty for p in parameters.values()
        ):
            free = {"vocabulary": TOKENIZER.get_vocab_size()} if "vocabulary" in parameters else {}
            made[name] = make(**free)
    return made


def form(config: Config) -> str:
    """Which form of model it is."""
    if not isinstance(config, Decoder):
        return "encoder" if isinstance(config, Encoder) else "encoder-decoder"
    layers = config.stack.layers
    if any(isinstance(layer.mlp, MoE) for layer in layers):
        return "decoder, mixture"
    alike = all(isinstance(layer.attention, Attention) for layer in layers)
    return "decoder" if alike else "decoder, other mixers"


def main() -> None:
    parser, models = argparse.ArgumentParser(description="Look for false alarms of verify."), configs()
    parser.add_argument("--quick", action="store_true", help="the quick checks alone")
    parser.add_argument("--only", nargs="+", default=list(models), choices=models, metavar="NAME")
    parser.add_argument("--quants", nargs="+", default=QUANTS)
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    options = parser.parse_args()
    bundles, rows, alarms = Counter[tuple[str, str]](), Counter[tuple[str, str]](), 0
    for name in options.only:
        config = models[name]
        fits = config.embedding.vocabulary == TOKENIZER.get_vocab_size()
        with tempfile.TemporaryDirectory() as folder:
            source, path = Path(folder) / "model", Path(folder) / "bundle"
            weights = tiny_models.weights(config, options.seed)
            save_checkpoint(source, config, weights, TOKENIZER.to_str() if fits else None)
            for quant in options.quants:
                kept = partial(patch.object, Checkpoint, "native", kept_blocks.natives(KEPT))
                with kept() if quant == "keep" else nullcontext():
                    try:
                        bundle_writer.export(open_checkpoint(source), path, quant=quant, verify=False)
                    except ExportError as error:
                        print(f"{name} {quant}: no bundle: {error}", flush=True)
                        continue
                    report = verify(path, None if options.quick else source, threads=1)
                judged = [row for row in report.rows if row.ok is not None]
                print(f"{name} {quant}: {len(judged)} rows", *report.failed, sep="\n  ", flush=True)
                cell = form(config), quant
                bundles[cell] += 1
                rows[cell] += len(judged)
                alarms += len(report.failed)
    print(f"{bundles.total()} bundles, {rows.total()} rows, {alarms} false alarms")
    forms = dict.fromkeys(kind for kind, _ in bundles)
    lines = [("form of model", *options.quants), ("---",) * (1 + len(options.quants))]
    for kind in forms:
        cells = ((bundles[kind, quant], rows[kind, quant]) for quant in options.quants)
        lines.append((kind, *(f"{count}: {judged:,}" if count else "" for count, judged in cells)))
    print(*(f"| {' | '.join(line)} |" for line in lines), sep="\n")


if __name__ == "__main__":
    main()
