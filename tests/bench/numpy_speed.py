"""The NumPy engine beside transformers, both in float32 from the same file: it must decode as fast.

    pip install transformers torch gguf accelerate        (in an environment of its own, or tfm's)
    python tests/bench/numpy_speed.py MODEL.gguf --text FILE --transformers-python BIN

OpenBLAS chooses its kernels by processor; OPENBLAS_CORETYPE overrides that, and the figures with it.
Exit code 1: slower than transformers.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from peers import row
from tfm.refimpl.checkpoint.open import open_checkpoint
from workers import Series, Worker, head, interleave, quiet, ratio


def main(
    model: Path,
    text: Annotated[Path, typer.Option(help="The prompt is its first tokens.")],
    transformers_python: str = sys.executable,
    threads: int = 2,
    pairs: int = 5,
    prompt_tokens: int = 128,
    new_tokens: int = 64,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Measure, print both, and exit 1 when the specification is slower."""
    typer.echo(quiet(), nl=bool(quiet()))
    tokenizer = open_checkpoint(model).tokenizer
    ids = head(text, tokenizer, prompt_tokens)
    ours = Worker("numpy", model, threads=threads)
    theirs = Worker("transformers", model, python=transformers_python, threads=threads)
    sides = [(worker, Series(prompt_tokens, new_tokens)) for worker in (ours, theirs)]
    for worker, _ in sides:
        worker.measure(ids, 8)
    interleave(sides, ids, pairs)
    settings = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("OPENBLAS_")]
    typer.echo(f"{threads} threads, {' '.join(settings) or 'OpenBLAS by its own choice'}")
    for worker, series in sides:
        typer.echo(row(worker.hello["engine"], worker.hello["version"], series))
        worker.close()
    (_, mine), (_, other) = sides
    decode, prefill = ratio(mine.decode, other.decode), ratio(mine.prefill, other.prefill)
    typer.echo(f"  decode {decode:.2f} times (gate 1), prefill {prefill:.2f} times")
    if json_out is not None:
        figures = {worker.hello["engine"]: series.to_json() | worker.hello for worker, series in sides}
        figures |= {"decode": decode, "prefill": prefill, "openblas": settings}
        json_out.write_text(json.dumps(figures, indent=1) + "\n")
    raise typer.Exit(0 if decode >= 1 else 1)


if __name__ == "__main__":
    typer.run(main)
