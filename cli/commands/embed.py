"""The command `tfm-cli embed`, which computes embeddings of texts and the similarity of texts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import fleet as f
from .. import options as o
from ..console import in_folder, out, out_json, progress, say, shorten, table

if TYPE_CHECKING:
    import numpy as np

GROUP = "Read texts"
SHOWN = 6  # numbers of a vector at a terminal


@o.grouped
def command(
    *,
    text: o.Texts = None,
    model: o.Model = "minilm-l6",
    file: o.Lines = None,
    similarity: Annotated[
        bool,
        typer.Option(
            "--similarity", help="Print the cosine similarity of each pair of texts instead of the vectors."
        ),
    ] = False,
    npy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            callback=in_folder,
            help="Write the vectors, or with --similarity the similarities, to this file as a NumPy array "
            "(.npy).",
        ),
    ] = None,
    batch: o.Batch = 32,
    running: o.Running,
    as_json: o.AsJson = False,
    fleet: f.Fleet,
) -> None:
    """Compute one embedding vector per text. Similar texts get similar vectors.

    At a terminal, tfm prints only the first numbers of each vector. A pipe, --json and --npy get all numbers.

    Example: tfm-cli embed "a cat" "a kitten" "a bill" --similarity

    Example: tfm-cli embed --ray local --file texts.jsonl --out vectors
    """
    if fleet.asked:
        f.on_fleet(
            "embed", fleet, running, model, file,
            options={"batch": batch},
            refused={
                "TEXT": text, "--similarity": similarity, "--npy": npy, "--json": as_json
            },
        )  # fmt: skip
        return
    import numpy as np

    from ...runtime.tasks.embed import similarity as cosines
    from ..inputs import read

    texts = read(text, file)
    if similarity and len(texts) < 2:
        raise typer.BadParameter("--similarity needs at least two texts")
    if npy is not None and as_json:
        raise typer.BadParameter("give --npy or --json, not both")
    loaded = running.load(model, "embed")
    vectors = loaded.embed(texts, batch=batch, progress=progress())
    numbers = cosines(vectors, vectors) if similarity else vectors
    if npy is not None:
        with open(npy, "wb") as opened:  # np.save would add ".npy" to another name
            np.save(opened, numbers, allow_pickle=False)
    elif as_json:
        out_json({"texts": texts, "similarity" if similarity else "vectors": numbers.tolist()})
    elif not similarity and sys.stdout.isatty():
        summarize(texts, numbers)
    elif not similarity:
        for vector in numbers:
            out(" ".join(f"{x:.6g}" for x in vector))
    elif len(texts) == 2:
        out(f"{numbers[0, 1]:.4f}")
    else:
        table(
            ("TEXT", "", *(str(i + 1) for i in range(len(texts)))),
            [
                (shorten(one, 40), i + 1, *(f"{x:.3f}" for x in row))
                for i, (one, row) in enumerate(zip(texts, numbers, strict=True))
            ],
        )


def summarize(texts: Sequence[str], vectors: np.ndarray) -> None:
    """Print the dimension, the norm and the first numbers of each vector, and say how to get all numbers."""
    import numpy as np

    table(
        ("TEXT", "DIMENSION", "NORM", "FIRST NUMBERS"),
        [
            (
                shorten(text, 40),
                len(vector),
                f"{np.linalg.norm(vector):.4g}",
                " ".join(f"{x: .4f}" for x in vector[:SHOWN]) + (" …" if len(vector) > SHOWN else ""),
            )
            for text, vector in zip(texts, vectors, strict=True)
        ],
    )
    say("to get all numbers, use --json, --npy FILE or a pipe (one line per text)")
