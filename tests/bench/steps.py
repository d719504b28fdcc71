"""What a step of several tokens costs beside a step of one: a draft is checked in such a step.

    python tests/bench/steps.py BUNDLE

Steps of each size follow a prompt that was read once, with logits of all their tokens, in rounds that take
turns. After each step the cache goes back to the prompt, so that all read as many keys.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from tfm.runtime.tasks import load
from workers import quiet, ratio, ratio_interval

STEPS = 16  # of each size in a round


def main(
    bundle: Path,
    size: Annotated[list[int], typer.Option(help="Tokens of a step.")] = [1, 2, 4, 8],  # noqa: B006
    context: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 128,
    threads: int = 2,
    pairs: int = 15,
) -> None:
    """Measure in turn, and print a line for each size: milliseconds, and the ratio to the first size."""
    typer.echo(quiet(), err=True, nl=bool(quiet()))
    engine = load(bundle, threads=threads).engine
    _, cache = engine.step(np.ones((1, context), np.int64), engine.start())
    seconds: dict[int, list[float]] = {count: [] for count in size}
    for _ in range(pairs + 1):  # the first round warms up
        for count in size:
            tokens, at = np.ones((1, count), np.int64), np.arange(count)[None]
            taken = 0.0
            for _ in range(STEPS):
                begin = time.perf_counter()
                _, cache = engine.step(tokens, cache, at=at)
                taken += time.perf_counter() - begin
                cache = cache.truncate(np.array([context]))
            seconds[count].append(taken / STEPS)
    timed = {count: times[1:] for count, times in seconds.items()}
    for count, times in timed.items():
        low, high = ratio_interval(times, timed[size[0]])
        typer.echo(
            f"{count} tokens {statistics.median(times) * 1e3:.2f} ms, "
            f"{ratio(times, timed[size[0]]):.3f} ({low:.3f} to {high:.3f}) times a step of {size[0]}"
        )


if __name__ == "__main__":
    typer.run(main)
