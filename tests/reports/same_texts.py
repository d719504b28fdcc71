"""Are texts the same however they are computed? For a bundle that promises the same bits they must be.

    PYTHONPATH=tests python -m reports.same_texts BUNDLE

Greedy and seeded texts after many prompts: with drafts and without, in batches, with the prompt read in
chunks, by one thread and by two, each compared with the text made alone, token by token. Exit code 1: a text
differs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.decoding.speculative import PromptLookup, speculate
from tfm.refimpl.engine.protocol import Engine
from tfm.runtime.tasks.continuous_batching import run
from tfm.runtime.tasks.timed_engine import LONGEST_DRAFT, TimedEngine

SAMPLERS = {
    "greedy": Sampler(),
    "seeded": Sampler(temperature=0.7, top_p=0.9, repetition_penalty=1.1),
}
DRAFTS = ("none", "always", "measured")
BATCHES = (1, 3, 8)
CHUNKS = (1, 7, 512)
PROMPTS = Path(__file__).parents[1] / "bench" / "chat_prompts.txt"


class Way(NamedTuple):
    """One way to compute texts; a batch takes no drafts."""

    threads: int
    chunk: int
    batch: int
    drafts: str


def ways(threads: Sequence[int]) -> list[Way]:
    """All of them, the plainest first."""
    every = itertools.product(threads, CHUNKS, BATCHES, DRAFTS)
    return [Way(*one) for one in every if one[2] == 1 or one[3] == "none"]


def texts(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    stop: frozenset[int],
    new: int,
    way: Way,
) -> list[list[int]]:
    """The tokens after each prompt."""
    rows = [GeneratedSequence(p, sampler, stop, new, 1, index) for index, p in enumerate(prompts)]
    timed = TimedEngine(engine)
    costs = {"always": lambda _: 1.0, "measured": timed.cost}  # of 1.0 the longest draft pays best
    for row in rows if way.batch == 1 else []:
        if way.drafts == "none":
            list(generate(engine, row, chunk=way.chunk))
        else:
            lookup = PromptLookup(cost=costs[way.drafts])
            list(speculate(timed, row, lookup, LONGEST_DRAFT, chunk=way.chunk))
    if way.batch > 1:
        list(run(engine, rows, way.batch, chunk=way.chunk))
    return [row.tokens for row in rows]


def differences(
    engines: Mapping[int, Engine], prompts: Sequence[Sequence[int]], stop: frozenset[int], new: int
) -> Iterator[tuple[str, Way, int]]:
    """For each way how many texts differ from those made alone. `engines` are by number of threads."""
    for name, sampler in SAMPLERS.items():
        plainest, *others = ways(list(engines))
        plain = texts(engines[plainest.threads], prompts, sampler, stop, new, plainest)
        for way in others:
            made = texts(engines[way.threads], prompts, sampler, stop, new, way)
            yield name, way, sum(one != other for one, other in zip(made, plain, strict=True))


def main(
    bundle: Path,
    prompts: Annotated[int, typer.Option(help="How many of chat_prompts.txt.")] = 50,
    new: Annotated[int, typer.Option(help="Tokens to generate after each.")] = 64,
) -> None:
    """Compare, a line for each way."""
    from tfm import runtime

    models = {threads: runtime.load(bundle, threads=threads) for threads in (1, 2)}
    model = models[1]
    typer.echo(f"same bits: {model.same_bits}")
    ids = [model.prompt(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()[:prompts]]
    failed = False
    engines = {threads: one.engine for threads, one in models.items()}
    for name, way, count in differences(engines, ids, frozenset(model.generation.eos), new):
        typer.echo(f"{name}, {way}: {count} of {len(ids)} texts differ")
        failed |= count > 0
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
