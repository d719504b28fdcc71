"""The command `tfm-cli classify`, which labels whole texts."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import fleet as f
from .. import options as o
from ..console import out_json, progress, shorten, table

GROUP = "Read texts"


@o.grouped
def command(
    *,
    model: o.Model = "demo-classify",
    text: o.Texts = None,
    file: o.Lines = None,
    pair: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Classify pairs of texts: each pair is one of the given texts and this second text.",
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Show only the N likeliest labels of each text.")
    ] = None,
    batch: o.Batch = 32,
    running: o.Running,
    as_json: o.AsJson = False,
    fleet: f.Fleet,
) -> None:
    """Classify whole texts. Print the labels of each text with their scores, the likeliest label first.

    If the model is a regression model, print the numbers that the model predicts, in the model's own order.

    Example: tfm-cli classify "What a lovely film!" "The room was not clean." --top 1

    Example: tfm-cli classify --ray local --file texts.jsonl --out labels
    """
    if fleet.asked:
        f.on_fleet(
            "classify", fleet, running, model, file,
            options={"batch": batch},
            refused={
                "TEXT": text, "--pair": pair, "--top": top, "--json": as_json
            },
        )  # fmt: skip
        return
    from ..inputs import read

    texts = read(text, file)
    pairs = texts if pair is None else [(one, pair) for one in texts]
    loaded = running.load(model, "classify")
    labels_of = [labels[:top] for labels in loaded.classify(pairs, batch=batch, progress=progress())]
    if as_json:
        rows = zip(texts, labels_of, strict=True)
        out_json([{"text": one, "labels": [label._asdict() for label in labels]} for one, labels in rows])
        return
    cells = []
    for one, labels in zip(texts, labels_of, strict=True):
        for i, label in enumerate(labels):
            cells.append((shorten(one) if i == 0 else "", label.label, f"{label.score:.4f}"))
    table(("TEXT", "LABEL", "SCORE"), cells)
