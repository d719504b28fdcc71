"""Texts embedded over Ray by one and by two workers of one thread each, beside this process alone.

    tfm-cli export minilm-l6 minilm
    python tests/bench/fleet.py --bundle minilm --texts 20000

Needs tfm-cli[ray]. The rate counts from the first block that comes back, when one worker has its bundle;
beside it stands the time of the whole run, with the start of a cluster. All results must be the same bytes.
A million texts are planned by these rates. Exit code 1 where results differ.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from tfm.runtime.fleet import Embed
from tfm.runtime.fleet.compute import results
from tfm.runtime.fleet.job import Job
from tfm.runtime.fleet.pipeline import run
from tfm.runtime.fleet.rows import blocks

WORDS = (Path(__file__).with_name("chat_prompts.txt")).read_text(encoding="utf-8").split()


def drawn(path: Path, count: int, words: int) -> Path:
    """A file of texts of 1 to `words` words."""
    rng = random.Random(5)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            text = " ".join(rng.choices(WORDS, k=rng.randint(1, words)))
            file.write(json.dumps({"text": text}) + "\n")
    return path


def alone(job: Job) -> tuple[list[bytes], float]:
    """The results of all blocks by this process, and texts a second."""
    task, parts = Embed(job.bundle, **job.options), list(blocks(job.file, job.column, job.rows))
    begin = time.perf_counter()
    made = [results(task, i * job.rows, texts, job.format) for i, texts in enumerate(parts)]
    return made, sum(map(len, parts)) / (time.perf_counter() - begin)


def on_ray(job: Job, out: Path, workers: int) -> tuple[list[bytes], float, float]:
    """The results of all blocks by workers, texts a second, and seconds of all."""
    seen: list[tuple[float, int]] = []
    begin = time.perf_counter()
    run(job, out, "local", workers, lambda _, done, total: seen.append((time.perf_counter(), done)))
    took = time.perf_counter() - begin
    (first, some), (last, every) = seen[1], seen[-1]
    made = [file.read_bytes() for file in sorted(out.glob(f"*.{job.format}"))]
    return made, (every - some) / (last - first), took


def main(
    bundle: Annotated[Path, typer.Option(help="An encoder's for embeddings.")],
    texts: int = 20_000,
    words: Annotated[int, typer.Option(help="The most of a text.")] = 60,
    block: int = 256,
    batch: int = 32,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = drawn(Path(folder) / "in.jsonl", texts, words)
        options = {"batch": batch, "device": "cpu", "threads": 1}
        job = Job("embed", bundle.resolve(), options, file, rows=block)
        want, rate = alone(job)
        typer.echo(f"this process: {rate:,.0f} texts/s, a million in {1e6 / rate / 60:,.1f} min")
        rates, same = {}, True
        for workers in (1, 2):
            made, rates[workers], took = on_ray(job, Path(folder) / str(workers), workers)
            same &= made == want
            rate = rates[workers]
            typer.echo(
                f"workers {workers}: {rate:,.0f} texts/s, {took:.1f} s of all, "
                f"a million in {1e6 / rate / 60:,.1f} min; same bytes: {made == want}"
            )
        typer.echo(f"speed-up of 2 workers: {rates[2] / rates[1]:.2f}")
    raise typer.Exit(not same)


if __name__ == "__main__":
    typer.run(main)
