"""Texts written side by side, beside llama.cpp; and a queue of prompts of unequal length, kept full.

    python tests/bench/batches.py BUNDLE --text FILE --llama GGUF --llama-python BIN

First `rows` texts after the same prompt: the ratio of the tokens a second, in interleaved pairs. Then 64
prompts through `continuous_batching` with as many rows: tokens a second, and the time split into prompts,
steps and all else, greedy and sampled. Exit code 1: the gate was missed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from drafts import interval
from tfm import runtime
from tfm.refimpl.decoding.loop import GeneratedSequence
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.engine.protocol import Engine
from tfm.runtime.tasks.continuous_batching import Batch, Row
from workers import Worker, head, quiet

GATE = 2.0
SAMPLERS = {"greedy": Sampler(), "sampled": Sampler(temperature=0.2, top_p=0.9, repetition_penalty=1.1)}


def beside(sides: Sequence[Worker], ids: Sequence[int], new: int, rows: int, pairs: int) -> np.ndarray:
    """How many times as fast the first decodes as the second, by pair."""
    ratios = []
    for pair in range(pairs + 1):
        took: dict[str, float] = {}
        for worker in sides if pair % 2 else sides[::-1]:
            took[worker.name] = worker.measure(ids, new, rows)["decode_s"]
        ratios.append(took[sides[1].name] / took[sides[0].name])
    return np.array(ratios[1:])  # the first pair pages weights in


class Watched:
    """An engine that adds up the seconds of its steps: of prompts and of single tokens."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.config = engine, engine.config
        self.start = engine.start
        self.prompts = self.steps = 0.0

    def step(self, tokens: np.ndarray, *rest: Any) -> Any:
        begin = time.perf_counter()
        result = self.engine.step(tokens, *rest)
        took = time.perf_counter() - begin
        if tokens.shape[1] > 1:
            self.prompts += took
        else:
            self.steps += took
        return result


def queue(engine: Engine, ids: Sequence[int], rows: int, sampler: Sampler) -> str:
    """64 prompts of 8 to 128 tokens with answers of 16 to 128: where the time goes."""
    rng = np.random.default_rng(0)
    sequences = [
        GeneratedSequence(ids[: rng.integers(8, 129)], sampler, frozenset(), int(rng.integers(16, 129)), 0, i)
        for i in range(64)
    ]
    watched = Watched(engine)
    begin = time.perf_counter()
    made = sum(1 for _ in Batch(watched, 512).run([*map(Row, sequences)], rows))
    total = time.perf_counter() - begin
    rest = total - watched.prompts - watched.steps
    return (
        f"{made} tokens after 64 prompts in {total:.2f} s, {made / total:.0f} a second: "
        f"{watched.prompts / total:.0%} prompts, {watched.steps / total:.0%} steps, {rest / total:.0%} else"
    )


def main(
    bundle: Path,
    text: Annotated[Path, typer.Option(help="Prompts are its first tokens.")],
    llama: Annotated[Path, typer.Option(help="A file in Q8_0.")],
    llama_python: Annotated[str, typer.Option(help="A Python that has llama-cpp-python.")],
    rows: int = 8,
    pairs: int = 15,
    threads: int = 2,
    new_tokens: int = 128,
) -> None:
    """Measure, print, and exit 1 when the gate is missed."""
    typer.echo(quiet(), nl=bool(quiet()))
    ids = head(text, (bundle / "tokenizer.json").read_text(encoding="utf-8"), 128)
    sides = [
        Worker("onnx", bundle, threads=threads),
        Worker("llama", llama, python=llama_python, threads=threads),
    ]
    ratios = beside(sides, ids, new_tokens, rows, pairs)
    for worker in sides:
        worker.close()
    median, (low, high) = float(np.median(ratios)), interval(ratios)
    missed = "" if median >= GATE else ": MISSED"
    typer.echo(f"{rows} rows: {median:.2f} times ({low:.2f} to {high:.2f}), at least {GATE}{missed}")
    engine = runtime.load(bundle, threads=threads).engine
    for name, sampler in SAMPLERS.items():
        queue(engine, ids, rows, sampler)
        typer.echo(f"{name}: {queue(engine, ids, rows, sampler)}")
    raise typer.Exit(1 if missed else 0)


if __name__ == "__main__":
    typer.run(main)
