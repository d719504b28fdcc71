"""What drafts that are made by default save, and what they cost where a text doesn't repeat itself.

    python tests/bench/drafts.py BUNDLE --text FILE [--served]

Texts are written with drafts and without, in turn, by a bundle that promises the same bits; each pair of
texts must be equal. A pair is all texts of a kind: copies of passages of FILE, stories, answers to questions.
Its figure is the time of decoding without drafts over the time with them; printed are the median and the
interval that holds it with 95 %, by resampling. Exit code 1: a gate was missed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from tfm import runtime
from tfm.runtime.serve import AsyncModel
from tfm.runtime.tasks import Model
from workers import quiet

PASSAGE = 700  # characters of a text that is copied
BEGUN = 100  # of them are written already
STORIES = [
    f"Write a short story about {of}."
    for of in ("a lighthouse", "a lost dog", "two sisters", "a train at night", "the last tree", "a thief")
]
QUESTIONS = (Path(__file__).parent / "chat_prompts.txt").read_text(encoding="utf-8").splitlines()[:6]
# The least median where drafts are for, the least lower end of the interval elsewhere.
GATES = {"copies": ("median", 2.5), "stories": ("lower", 0.97), "answers": ("lower", 0.97)}


def prompts(text: str) -> dict[str, tuple[list[str], dict[str, object]]]:
    """For each kind its prompts and options."""
    passages = [text[i : i + PASSAGE] for i in range(0, 6 * PASSAGE, PASSAGE)]
    if len(passages[-1]) < PASSAGE:
        sys.exit(f"the text must have {6 * PASSAGE} characters, it has {len(text)}")
    copies = [f"{passage}\n\n{passage[:BEGUN]}" for passage in passages]
    return {
        "copies": (copies, {"raw": True, "greedy": True}),
        "stories": (STORIES, {}),
        "answers": (QUESTIONS, {}),
    }


def decode(model: Model, text: str, **options: object) -> tuple[list[int], float]:
    """The tokens that follow, and the seconds that all but the first took."""
    stream = model.generate(text, **options)  # pyright: ignore[reportArgumentType]
    str(stream)
    return stream.tokens, stream.timings["total_s"] - stream.timings["first_token_s"]


def decode_served(model: Model, text: str, **options: object) -> tuple[list[int], float]:
    """The same of a text that is alone in a server's batch."""

    async def run() -> tuple[list[int], float]:
        async with AsyncModel(model, prefix_bytes=0) as served:
            stream = await served.generate(text, **options)  # pyright: ignore[reportArgumentType]
            times = [time.perf_counter() async for _ in stream.parts()]
            return stream.tokens, times[-1] - times[0]

    return asyncio.run(run())


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """Where the median of such ratios lies, in 95 of 100 resampled series."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (10_000, len(ratios))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def main(
    bundle: Path,
    text: Annotated[Path, typer.Option(help="Passages of it are copied.")],
    pairs: int = 15,
    threads: int = 2,
    new_tokens: int = 128,
    served: Annotated[bool, typer.Option(help="Each text is the only one of a server's batch.")] = False,
) -> None:
    """Measure, print a line for each kind, and exit 1 when a gate is missed."""
    typer.echo(quiet(), nl=bool(quiet()))
    model = runtime.load(bundle, threads=threads)
    if not model.same_bits:
        sys.exit(f"drafts aren't made by default, the same bits are {model.same_bits}")
    good = True
    for kind, (texts, options) in prompts(text.read_text(encoding="utf-8")).items():
        options = {**options, "max_new_tokens": new_tokens}
        ratios = []
        for pair in range(pairs + 1):
            seconds = {False: 0.0, None: 0.0}
            for one in texts:
                made = {}
                for draft in (False, None) if pair % 2 else (None, False):
                    decoded = decode_served if served else decode
                    made[draft], took = decoded(model, one, **options, draft=draft)
                    seconds[draft] += took
                if made[False] != made[None]:
                    sys.exit(f"drafts changed the text after {one!r:.60}")
            ratios.append(seconds[False] / seconds[None])
        ratios = np.array(ratios[1:])  # the first pair pages weights in
        low, high = interval(ratios)
        judged, gate = GATES[kind]
        figures = {"median": float(np.median(ratios)), "lower": low}
        good &= (reached := figures[judged] >= gate)
        typer.echo(
            f"{kind:8} {figures['median']:.3f} ({low:.3f} to {high:.3f}), {judged} at least {gate}"
            f"{'' if reached else ': MISSED'}"
        )
    raise typer.Exit(0 if good else 1)


if __name__ == "__main__":
    typer.run(main)
