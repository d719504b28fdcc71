"""`tfm-cli fill`: what may stand where a text is masked."""

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
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Show so many tokens for each mask.")] = 5,
    batch: o.Batch = 8,
    engine: o.Engine = "onnx",
    quant: o.Quantization = None,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    as_json: o.AsJson = False,
) -> None:
    """The likeliest tokens for each mask, which a text holds as the model writes it: [MASK], <mask>."""
    from ..inputs import read
    from ..model_loading import load

    texts = read(text, file)
    loaded = load(model, engine, quant, device, threads)
    found = loaded.fill(texts, count=top, batch=batch, progress=progress())
    if as_json:
        rows = zip(texts, found, strict=True)
        out_json(
            [{"text": one, "masks": [[f._asdict() for f in mask] for mask in masks]} for one, masks in rows]
        )
        return
    table(
        ("FILLING", "SCORE", "MASK", "OF TEXT"),
        [
            (f.text, f"{f.score:.4f}", k + 1, i + 1)
            for i, masks in enumerate(found)
            for k, mask in enumerate(masks)
            for f in mask
        ],
    )
