"""A real checkpoint as GGUF, its bundles beside llama.cpp on the same file: size, fidelity, text, speed.

    python tests/bench/checkpoints.py MODEL.gguf --text FILE --work DIR --llama-python BIN [--quant keep …]

Each quantization is exported into `--work`, once. Rows of a Markdown table are printed: bytes; mean KL of the
bundle to the specification over the file's own numbers, and equal best tokens, over `--tokens` of the text;
how many greedy tokens after its first 128 are llama.cpp's, until the first that isn't; and the ratios of the
median speeds in interleaved pairs, with the lowest and highest ratio of a pair. llama.cpp computes with the
file's numbers as they are.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from backends import Recorded
from tfm import runtime
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.runtime.text.tokenizer import Tokenizer
from tfm.runtime.verification.metrics import fidelity
from workers import Series, Worker, head, interleave, quiet, ratio

PROMPT, NEW = 128, 64
QUANTS = ("keep", "int8", "int4")
HEAD = "| checkpoint | form | MB | KL, nats | equal best | greedy as llama.cpp | prefill | decode |"


def exported(model: Path, work: Path, quant: str) -> Path:
    """The bundle of a quantization, exported unless it is there."""
    bundle = work / f"{model.stem}-{quant}"
    if not bundle.exists():
        command = [sys.executable, "-m", "tfm.cli", "export", str(model), str(bundle), "--quant", quant]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return bundle


def equal_tokens(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens are equal before the first that differs."""
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), len(ours))


def spread(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The ratio of medians, with the lowest and highest ratio of a pair."""
    pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{ratio(ours, theirs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def megabytes(path: Path) -> str:
    files = path.iterdir() if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files) / 1e6:.0f}"


def main(
    model: Path,
    text: Annotated[Path, typer.Option(help="The prompt is its first tokens.")],
    work: Annotated[Path, typer.Option(help="Where bundles are kept.")],
    llama_python: Annotated[str, typer.Option(help="A Python that has llama-cpp-python.")],
    quant: Annotated[list[str] | None, typer.Option(help="By default keep, int8 and int4.")] = None,
    tokens: int = 1024,
    pairs: int = 5,
    threads: int = 2,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Export, measure, print a table."""
    work.mkdir(exist_ok=True)
    bundles = {name: exported(model, work, name) for name in quant or QUANTS}
    checkpoint = open_checkpoint(model)
    ids = head(text, checkpoint.tokenizer, max(tokens, PROMPT))
    before = Tokenizer(str(checkpoint.tokenizer), checkpoint.config.embedding.vocabulary).before_text
    close = {}
    with tempfile.TemporaryDirectory() as folder:
        specification = Recorded(NumpyEngine(checkpoint.config, materialize(checkpoint.params)), folder)
        for name, bundle in bundles.items():
            specification.rewind()
            loaded = runtime.load(bundle, threads=threads)
            close[name] = fidelity(loaded, specification, ids, 512, before=before)

    typer.echo(quiet(), nl=bool(quiet()))
    theirs = Worker("llama", model, python=llama_python, threads=threads)
    results: dict[str, Any] = {"llama.cpp": theirs.hello | {"bytes": model.stat().st_size}}
    typer.echo(f"{HEAD}\n|---|---|---|---|---|---|---|---|")
    typer.echo(f"| {model.stem} | the file | {megabytes(model)} | | | | 1 | 1 |")
    for name, bundle in bundles.items():
        ours = Worker("onnx", bundle, threads=threads)
        sides = [(ours, Series(PROMPT, NEW)), (theirs, Series(PROMPT, NEW))]
        for worker, _ in sides:
            worker.measure(ids[:PROMPT], NEW)  # the first run pages weights in
        interleave(sides, ids[:PROMPT], pairs)
        ours.close()
        (_, mine), (_, others) = sides
        same = equal_tokens(mine.replies[-1]["tokens"], others.replies[-1]["tokens"])
        speeds = [spread(getattr(mine, phase), getattr(others, phase)) for phase in ("prefill", "decode")]
        typer.echo(
            f"| {model.stem} | {name} | {megabytes(bundle)} | {close[name].kl:.4f} | "
            f"{close[name].agreement:.1%} | {same} of {NEW} | {speeds[0]} | {speeds[1]} |"
        )
        results[name] = {
            "kl": close[name].kl, "agreement": close[name].agreement, "positions": close[name].positions,
            "greedy": same, "tfm": mine.to_json(), "llama.cpp": others.to_json(),
        }  # fmt: skip
    theirs.close()
    if json_out is not None:
        json_out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
