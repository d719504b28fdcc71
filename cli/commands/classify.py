"""`tfm-cli classify`: labels of whole texts."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import fleet as f
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
    ignore_key: o.IgnoreKey = None,
    verbose: o.Verbose = False,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    as_json: o.AsJson = False,
    ray: f.Ray = None,
    out_dir: f.Out = None,
    column: f.Column = "text",
    block: f.Rows = f.ROWS,
    workers: f.Workers = None,
) -> None:
    """Label whole texts, the likeliest label first; a regression gives its numbers.

    Example: tfm-cli classify "What a lovely film!" "The room was not clean." --top 1

    Example: tfm-cli classify --ray local --file texts.jsonl --out labels
    """
    if ray is not None or out_dir is not None:
        f.on_fleet(
            "classify", address=ray, file=file, out=out_dir, column=column, rows=block, workers=workers,
            model=model, quant=quant, device=device, threads=threads,
            adapter=o.adapter_choice(adapter, no_adapter), ignore_keys=ignore_key or (),
            options={"batch": batch},
            refused={
                "TEXT": text, "--pair": pair, "--top": top, "--json": as_json, "--engine": engine != "onnx",
            },
        )  # fmt: skip
        return
    from ..inputs import read
    from ..model_loading import load

    texts = read(text, file)
    pairs = texts if pair is None else [(one, pair) for one in texts]
    choice = o.adapter_choice(adapter, no_adapter)
    loaded = load(
        model, engine, quant, device, threads, task="classify", adapter=choice, ignore_keys=ignore_key or ()
    )
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
