"""`tfm-cli classify`: what texts are."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options as o
from ..console import out_json, progress, table

GROUP = "Read texts"


def command(
    model: o.Model,
    text: o.Texts = None,
    file: o.Lines = None,
    pair: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Classify each text together with this second one.")
    ] = None,
    top: Annotated[int | None, typer.Option(metavar="N", min=1, help="Show so many labels of each.")] = None,
    batch: o.Batch = 32,
    engine: o.Engine = "onnx",
    quant: o.Quantization = None,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    as_json: o.AsJson = False,
) -> None:
    """The labels of whole texts, the likeliest first; of a regression its numbers."""
    from ..inputs import read
    from ..model_loading import load

    texts = read(text, file)
    asked = texts if pair is None else [(one, pair) for one in texts]
    loaded = load(model, engine, quant, device, threads)
    found = [labels[:top] for labels in loaded.classify(asked, batch=batch, progress=progress())]
    if as_json:
        rows = zip(texts, found, strict=True)
        out_json([{"text": one, "labels": [label._asdict() for label in labels]} for one, labels in rows])
        return
    table(
        ("TEXT", "LABEL", "SCORE"),
        [
            (shown, one.label, f"{one.score:.4f}")
            for text, labels in zip(texts, found, strict=True)
            for shown, one in zip([shorten(text), *[""] * len(labels)], labels, strict=False)
        ],
    )


def shorten(text: str, room: int = 60) -> str:
    """The text, or its beginning where it is longer than a table has room for."""
    return text if len(text) <= room else text[: room - 1] + "…"
