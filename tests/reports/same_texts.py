"""Are texts the same however they are computed? For a bundle that promises the same bits they must be.

    PYTHONPATH=tests python -m reports.same_texts BUNDLE

Greedy and seeded texts after many prompts, in all combinations of: drafts or none, batches, chunks in which
the prompt is read, one thread and two. Each is compared, token by token, with the text that is made alone, of
a prompt that is read token by token. Exit code 1: a text differs.

A text that isn't in a batch goes on from a prefix on disk, which was read in such chunks by so many threads.
Where prefixes have the same bytes, the texts after them are the same computation, which is done once.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from tfm.refimpl.decoding.loop import GeneratedSequence, generate, prefill
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.decoding.speculative import PromptLookup, speculate
from tfm.runtime.ort import prefix_file
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.ort.kv_cache import OrtCache
from tfm.runtime.tasks.continuous_batching import Batch, Row
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


class Asked(NamedTuple):
    """Prompts, and what all their texts have in common."""

    prompts: Sequence[Sequence[int]]
    stop: frozenset[int]
    new: int

    def rows(self, sampler: Sampler) -> list[GeneratedSequence]:
        return [
            GeneratedSequence(prompt, sampler, self.stop, self.new, 1, index)
            for index, prompt in enumerate(self.prompts)
        ]


def ways(threads: Sequence[int]) -> list[Way]:
    """All of them."""
    every = itertools.product(threads, CHUNKS, BATCHES, DRAFTS)
    return [Way(*one) for one in every if one[2] == 1 or one[3] == "none"]


def prefixes(engine: OrtEngine, prompts: Sequence[Sequence[int]], chunk: int, folder: Path) -> list[Path]:
    """Files with the cache of each prompt, but for its last token."""
    paths = []
    for number, (*first, _) in enumerate(prompts):
        _, cache = prefill(engine, first, engine.start(1), chunk)
        assert isinstance(cache, OrtCache)
        paths.append(folder / f"{number}")
        prefix_file.write(paths[-1], engine, first, cache)
    return paths


def continued(engine: OrtEngine, row: GeneratedSequence, prefix: Path, drafts: str) -> list[int]:
    """The text after a prompt whose cache a file holds."""
    timed, (_, cache) = TimedEngine(engine), prefix_file.read(prefix, engine)
    costs = {"always": lambda n: 1 / n, "measured": timed.cost}  # of 1 / n the longest draft pays best
    if drafts == "none":
        return list(generate(engine, row, cache))
    return list(speculate(timed, row, PromptLookup(cost=costs[drafts]), LONGEST_DRAFT, cache))


def differences(
    engines: Mapping[int, OrtEngine], asked: Asked, folder: Path
) -> Iterator[tuple[str, Way, int]]:
    """For each way how many texts differ from those made alone. `engines` are by number of threads; files
    are written to a folder."""
    kept: dict[tuple[int, int], list[Path]] = {}
    for threads, chunk in itertools.product(engines, CHUNKS):
        place = folder / f"{threads} {chunk}"
        place.mkdir()
        kept[threads, chunk] = prefixes(engines[threads], asked.prompts, chunk, place)
    known: dict[tuple[str, int, str, int, bytes], list[int]] = {}
    for name, sampler in SAMPLERS.items():
        engine, rows = engines[min(engines)], asked.rows(sampler)
        plain = [list(generate(engine, row, chunk=1)) for row in rows]
        for way in ways(list(engines)):
            engine, rows = engines[way.threads], asked.rows(sampler)
            if way.batch > 1:
                list(Batch(engine, way.chunk).run([*map(Row, rows)], way.batch))
                made = [row.tokens for row in rows]
            else:
                made = []
                for row, prefix in zip(rows, kept[way.threads, way.chunk], strict=True):
                    digest = prefix.read_bytes()[-prefix_file.DIGEST :]
                    key = (name, way.threads, way.drafts, row.index, digest)
                    if key not in known:
                        known[key] = continued(engine, row, prefix, way.drafts)
                    made.append(known[key])
            yield name, way, sum(one != other for one, other in zip(made, plain, strict=True))


def main(
    bundle: Path,
    prompts: Annotated[int, typer.Option(help="How many of chat_prompts.txt.")] = 50,
    new: Annotated[int, typer.Option(help="Tokens to generate after each.")] = 16,
) -> None:
    """Compare, a line for each way."""
    from tfm import runtime

    models = {threads: runtime.load(bundle, threads=threads) for threads in (1, 2)}
    model = models[1]
    typer.echo(f"same bits: {model.same_bits}")
    ids = [model.prompt(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()[:prompts]]
    engines = {threads: one.engine for threads, one in models.items() if isinstance(one.engine, OrtEngine)}
    asked, failed = Asked(ids, frozenset(model.generation.eos), new), False
    with tempfile.TemporaryDirectory() as folder:
        for name, way, count in differences(engines, asked, Path(folder)):
            typer.echo(f"{name}, {way}: {count} of {len(ids)} texts differ")
            failed |= count > 0
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
