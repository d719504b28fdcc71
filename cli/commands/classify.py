"""`tfm-cli classify`: labels of whole texts."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options as o
from ..console import out_json, progress, shorten, table

GROUP = "Read texts"


def command(
    model: o.Model = "demo-classify",
    text: o.Texts = None,
    file: o.Lines = None,
    pair: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Classify each text together with this second one.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Show only the N likeliest labels of each text.")
    ] = None,
    batch: o.Batch = 32,
    engine: o.Engine = "onnx",
    quant: o.Quantization = None,
    adapter: o.Adapter = None,
    no_adapter: o.NoAdapter = False,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    as_json: o.AsJson = False,
) -> None:
    """Label whole texts, the likeliest label first; a regression gives its numbers.

    Example: tfm-cli classify "What a lovely film!" "The room was not clean." --top 1
    """
    from ..inputs import read
    from ..model_loading import load

    texts = read(text, file)
    pairs = texts if pair is None else [(one, pair) for one in texts]
    choice = o.adapter_choice(adapter, no_adapter)
    loaded = load(model, engine, quant, device, threads, task="classify", adapter=choice)
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
