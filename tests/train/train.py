"""Trains tiny decoders with the torch mirror, exports them, and shows what each engine makes of them.

    python tests/train/train.py OUT                       six kinds of positions, five architectures
    python tests/train/train.py OUT --only t5 --text FILE one of them, on a text of one's own

Each becomes a directory OUT/NAME of model_type tfm, with its tokenizer, and bundles OUT/NAME-QUANT beside
it, which `tfm-cli` runs like any other: `tfm-cli generate "ada is in" --model OUT/t5`.
The same seed trains the same models. Texts that are scored are never trained on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import architectures
import numpy as np
import positions
import typer
from story import story
from tfm.cli.console import out, out_json, progress, say, table
from tfm.cli.plot import Plot, draw
from tfm.refimpl.config import Config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = (*positions.KINDS, *architectures.KINDS)
SENTENCES = 40_000  # of the story that is learned from, and a fifth of it that is read
PROMPT = "ada is in"
DASH = "—"


def main(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Where the models are written.")],
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help=", ".join(NAMES))] = None,
    text: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="What decoders learn; a story.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    plot: Plot = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
) -> None:
    """Train, export, compare; figures on stdout, progress on stderr."""
    if odd := sorted(set(only or ()) - set(NAMES)):
        raise typer.BadParameter(f"--only must be one of {', '.join(NAMES)}, got {odd[0]!r:.40}")
    folder.mkdir(parents=True, exist_ok=True)
    begin, names = time.monotonic(), [name for name in NAMES if name in (only or NAMES)]
    texts = texts_of(text, seed)
    read = on_positions([name for name in names if name in positions.KINDS], folder, seed, texts)
    built = on_architectures([name for name in names if name in architectures.KINDS], folder, seed, texts)
    minutes = (time.monotonic() - begin) / 60
    if plot is not None and read:
        draw(plot, 8, 5, lambda figure: picture(figure, read))
    if as_json:
        out_json({"positions": read, "architectures": built, "minutes": minutes})
        return
    show_positions(read)
    show_architectures(built)
    out(f"{minutes:.1f} minutes")


def texts_of(file: Path | None, seed: int) -> positions.Text:
    """What decoders learn and read: of a file, or a story."""
    if file is None:
        rng = np.random.default_rng([seed, 3])
        texts = positions.Text(story(rng, SENTENCES), story(rng, SENTENCES // 5))
    else:
        full_text = file.read_text(encoding="utf-8")
        texts = positions.Text(full_text[: len(full_text) * 4 // 5], full_text[len(full_text) * 4 // 5 :])
    if not len(texts.read):
        raise typer.BadParameter(f"a fifth of --text must have {positions.EDGES[-1] + 1} tokens")
    return texts


def on_positions(kinds: list[str], folder: Path, seed: int, texts: positions.Text) -> dict[str, Any]:
    """Figures of decoders with these kinds of positions, which differ in nothing else."""
    results = {}
    for kind, path in trained(kinds, positions.config, folder, seed, texts):
        perplexity, why = positions.compared(path, texts.read)
        results[kind] = {"perplexity": perplexity, "stops": why}
    return results


def on_architectures(kinds: list[str], folder: Path, seed: int, texts: positions.Text) -> dict[str, Any]:
    """Figures of decoders that differ in one part each."""
    made = trained(kinds, architectures.config, folder, seed, texts)
    return {kind: architectures.compared(path, texts.read, PROMPT) for kind, path in made}


def trained(
    kinds: list[str], config: Callable[[str, int], Config], folder: Path, seed: int, texts: positions.Text
) -> Iterator[tuple[str, Path]]:
    """(kind, directory) of each decoder, once it has learned the text."""
    for kind in kinds:
        say(f"{kind}: {positions.STEPS} steps")
        decoder = config(kind, texts.vocabulary)
        yield kind, positions.learn(decoder, folder / kind, texts, seed=seed, progress=progress())


def show_architectures(built: dict[str, Any]) -> None:
    """Print perplexities and continuations as tables."""
    if built:
        rows = [
            (kind, engine, f"{told['perplexity']:.3f}", told["text"])
            for kind, engines in built.items()
            for engine, told in engines.items()
        ]
        out(f"\nperplexity of texts of {positions.TRAINED} tokens, and what follows {PROMPT!r}")
        table(("ARCHITECTURE", "ENGINE", "PERPLEXITY", "TEXT"), rows)


def show_positions(read: dict[str, Any]) -> None:
    """Print perplexities as a table."""
    if read:
        spans = [f"{a + 1} TO {b:,}" for a, b in pairwise(positions.EDGES)]
        rows = [
            (kind, engine, *(f"{p:.3f}" for p in scores), *[DASH] * (len(spans) - len(scores)))
            for kind, told in read.items()
            for engine, scores in told["perplexity"].items()
        ]
        out(f"\nperplexity of tokens by what stands before them, trained on {positions.TRAINED}")
        table(("POSITIONS", "ENGINE", *spans), rows)
        for kind, told in read.items():
            if told["stops"] is not None:
                out(f"{DASH} {kind}: {told['stops']}")


def picture(figure: Figure, read: dict[str, Any]) -> None:
    """The specification's perplexity by length, a line a kind of positions."""
    axes = figure.subplots()
    for kind, told in read.items():
        values = told["perplexity"]["numpy"]
        axes.loglog(positions.EDGES[1 : 1 + len(values)], values, "o-", label=kind)
    axes.axvline(positions.TRAINED, color="gray", linestyle="--", label="trained length")
    axes.set(xlabel="tokens, up to", ylabel="perplexity")
    axes.legend()


if __name__ == "__main__":
    typer.run(main)
