"""tfm beside llama.cpp by context and batch, with the memory of each: one table in Markdown.

    python tests/bench/contexts.py BUNDLE --text FILE --llama GGUF --llama-python BIN > TABLE.md

Each row has processes of its own, which read so many tokens and write texts side by side, in interleaved
pairs. Figures are medians in tokens a second of all texts together, with the ratio of medians and the
interval that holds it with 95 %, by resampling. Memory is the peak of resident pages, mapped weights among
them. Both engines have room for just these texts; the longest context is cut so that what is written fits the
model. Rows of more than `--most` tokens in all are left out: on two threads each takes minutes a pair.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from tfm.runtime import hardware
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.verification.certificate import int8_path
from workers import IDLE, Series, Worker, head, idle, interleave, quiet, ratio, ratio_interval


def cells(ours: Sequence[float], theirs: Sequence[float]) -> list[str]:
    """Both medians and their ratio."""
    low, high = ratio_interval(ours, theirs)
    medians = [f"{statistics.median(rates):.0f}" for rates in (ours, theirs)]
    return [*medians, f"{ratio(ours, theirs):.2f} ({low:.2f} to {high:.2f})"]


def main(
    bundle: Path,
    text: Annotated[Path, typer.Option(help="Prompts are its first tokens.")],
    llama: Annotated[Path, typer.Option(help="The file that it is held against.")],
    llama_python: Annotated[str, typer.Option(help="A Python that has llama-cpp-python.")] = sys.executable,
    context: list[int] = [128, 2048, 8192],  # noqa: B006
    batch: list[int] = [1, 8, 32],  # noqa: B006
    most: Annotated[int, typer.Option(help="Tokens of all texts of a row together.")] = 20_000,
    pairs: int = 5,
    new_tokens: int = 32,
    threads: int = 2,
) -> None:
    """Measure, and print a row at a time."""
    typer.echo(quiet(), err=True, nl=bool(quiet()))
    opened = open_bundle(bundle)
    tokenizer = (bundle / "tokenizer.json").read_text(encoding="utf-8")
    names = ("prefill, tokens/s", "llama.cpp", "times", "decode, tokens/s", "llama.cpp", "times")
    header = ("tokens", "texts", *names, "peak, MB", "llama.cpp")
    versions: set[str] = set()
    Worker("onnx", bundle, threads=threads).close()  # what a first start writes to the cache isn't a row's
    typer.echo(f"| {' | '.join(header)} |\n{'|---' * len(header)}|")
    for tokens in context:
        count = min(tokens, opened.config.context - new_tokens)
        for rows in batch:
            if count * rows > most:
                typer.echo(f"| {count} | {rows} |{' - |' * (len(header) - 2)}")
                continue
            ids = head(text, tokenizer, count)
            ours = Worker("onnx", bundle, threads=threads)
            theirs = Worker("llama", llama, python=llama_python, threads=threads)
            sides = [(worker, Series(count, new_tokens, rows)) for worker in (ours, theirs)]
            interleave(sides, ids, 1)
            for _, series in sides:
                series.replies.clear()  # the first one pages weights in
            interleave(sides, ids, pairs)
            memory = [f"{worker.peak_mb:.0f}" for worker, _ in sides]
            one, other = (series for _, series in sides)
            speed = [*cells(one.prefill, other.prefill), *cells(one.decode, other.decode)]
            typer.echo(f"| {count} | {rows} | {' | '.join([*speed, *memory])} |")
            for worker, series in sides:
                versions.add(worker.hello["version"])
                if (used := idle(series.replies)) > IDLE:
                    typer.echo(f"WARNING: {worker.name} used {used:.0%} of a processor while idle", err=True)
                worker.close()
    size = hardware.memory()
    machine = f"{hardware.processor()}, {int8_path()}" + (f", {size / 2**30:.0f} GiB" if size else "")
    files = f"{opened.quant} beside {llama.name}"
    typer.echo(f"\n{files}, {threads} threads of {machine}; {pairs} pairs; {'; '.join(sorted(versions))}")


if __name__ == "__main__":
    typer.run(main)
