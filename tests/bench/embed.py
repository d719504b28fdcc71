"""A sentence encoder beside transformers: texts a second for batches and lengths, and fidelity.

    python tests/bench/embed.py CHECKPOINT --text FILE > TABLE.md

Each engine has a process of its own and reads the same ids; one computes at a time, taking turns with the
others. Tokenizing isn't measured. A figure is how many times as fast as transformers an engine is: the ratio
of medians over the turns, and the interval that holds it with 95 %, by resampling. Cosines are to the fp32
bundle, over 1000 sentences of 4 to 40 words. `kernels` is the default of tfm, `operators` the same bundle
over ONNX Runtime's, and `quantize_dynamic` ONNX Runtime's own path from the same fp32 graph.

What bounds the figures: an instruction of AVX512-VNNI multiplies and adds 64 codes, one of AVX512 16 floats.
Products of int8 are therefore at most 4 times as fast as those of float32, which torch computes at nearly the
rate of the processor. Attention and norms stay floats, so whole models come out below 4, unless a batch is so
small that torch's time isn't that of its products. AMX multiplies more codes at once.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from onnxruntime.quantization import quantize_dynamic
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.runtime.tasks import read_tokenizer
from workers import IDLE, Worker, idle, quiet, ratio, ratio_interval

Texts = list[list[int]]
SENTENCES = 1000
FOR_S = 0.1  # how long an engine reads the same texts in a turn


def of_one_length(ids: list[int], batch: int, tokens: int) -> Texts:
    """Texts of that many tokens: parts of the ids, between their first and last one."""
    inner = tokens - 2
    if len(ids) < batch * inner + 2:
        sys.exit(f"the text must have {batch * inner + 2} tokens, it has {len(ids)}")
    return [[ids[0], *ids[1 + i * inner : 1 + (i + 1) * inner], ids[-1]] for i in range(batch)]


def sentences(text: str) -> list[str]:
    """Of 4 to 40 words each, one after the other, the shortest first."""
    words, results, at = text.split(), [], 0
    for length in np.random.default_rng(0).integers(4, 41, SENTENCES):
        results.append(" ".join(words[(at + i) % len(words)] for i in range(length)))
        at += length
    return sorted(results, key=len)


def interleaved(workers: Mapping[str, Worker], texts: Texts, turns: int) -> dict[str, list[dict[str, Any]]]:
    """Each worker's replies, taking turns in one order and then in the other."""
    replies: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for turn in range(turns):
        for name in list(workers)[:: -1 if turn % 2 else 1]:
            replies[name].append(workers[name].ask({"texts": texts, "for_s": FOR_S}))
    return replies


def main(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    text: Annotated[Path, typer.Option()],
    threads: int = 2,
    pairs: int = 15,
    batch: list[int] = [1, 8, 32],  # noqa: B006
    tokens: list[int] = [16, 64, 256],  # noqa: B006
) -> None:
    typer.echo(quiet(), err=True, nl=bool(quiet()))
    checkpoint, told = open_checkpoint(source), text.read_text(encoding="utf-8")
    tokenizer = read_tokenizer(checkpoint, checkpoint.config)
    assert tokenizer is not None
    encode = lambda line: tokenizer.encode(line, add_special_tokens=True)  # noqa: E731
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for quant in ("int8-dynamic", "int8", "fp32"):
            export(checkpoint, folder / quant, quant=quant, verify=False)
        quantize_dynamic(folder / "fp32" / "model.onnx", folder / "dynamic.onnx")

        def start(kind: str, model: Path, **environment: str) -> Worker:
            return Worker(f"{kind} encoder", model, threads=threads, environment=environment)

        reference = start("transformers", source)
        kernels = {f"{quant}, kernels": start("onnx", folder / quant) for quant in ("int8-dynamic", "int8")}
        for name, worker in kernels.items():
            if not worker.hello["version"].startswith("kernels"):
                sys.exit(f"{name} aren't used: {worker.hello['version']} computes")
        workers = {
            "transformers": reference,
            **kernels,
            "int8-dynamic, operators": start("onnx", folder / "int8-dynamic", TFM_KERNELS="0"),
            "fp32": start("onnx", folder / "fp32"),
            "quantize_dynamic": start("graph", folder / "dynamic.onnx"),
        }
        ids = encode(told[: 8 * max(batch) * max(tokens)])
        others = [name for name in workers if name != "transformers"]
        typer.echo(f"{threads} threads, {pairs} interleaved pairs, times as fast as transformers\n")
        typer.echo(f"| batch | tokens | transformers, texts/s | {' | '.join(others)} |")
        typer.echo("|---" * (3 + len(others)) + "|")
        busy = dict.fromkeys(workers, 0.0)
        for count in batch:
            for length in tokens:
                replies = interleaved(workers, of_one_length(ids, count, length), pairs)
                busy = {name: max(busy[name], idle(replies[name])) for name in workers}
                rates = {name: [count / one["seconds"] for one in replies[name]] for name in workers}
                theirs, cells = rates["transformers"], []
                for name in others:
                    low, high = ratio_interval(rates[name], theirs)
                    cells.append(f"{ratio(rates[name], theirs):.2f} ({low:.2f} to {high:.2f})")
                typer.echo(f"| {count} | {length} | {statistics.median(theirs):.1f} | {' | '.join(cells)} |")
        for name in workers:
            if busy[name] > IDLE:
                typer.echo(f"WARNING: {name} used {busy[name]:.0%} of a processor while idle", err=True)
        lines = [encode(line) for line in sentences(told)]
        vectors = {}
        for name, worker in workers.items():
            parts = [worker.ask({"texts": lines[i : i + 32]}) for i in range(0, len(lines), 32)]
            vectors[name] = np.concatenate([part["vectors"] for part in parts])
            worker.close()
    typer.echo("\n| engine | mean cosine to fp32 | lowest |\n|---|---|---|")
    for name, ours in vectors.items():
        cosine = (ours * vectors["fp32"]).sum(-1)
        typer.echo(f"| {name} | {cosine.mean():.5f} | {cosine.min():.5f} |")


if __name__ == "__main__":
    typer.run(main)
