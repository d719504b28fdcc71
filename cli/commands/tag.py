"""`tfm-cli tag`: the entities of texts."""

from __future__ import annotations

from typing import Annotated

import typer

from ...refimpl.checkpoint.labels import Aggregation
from .. import options as o
from ..console import out_json, progress, table

GROUP = "Read texts"


def command(
    model: o.Model,
    text: o.Texts = None,
    file: o.Lines = None,
    aggregation: Annotated[
        Aggregation,
        typer.Option(
            help="How tokens become entities: not at all, as neighbours of one label, or as words first, "
            "which get the label of their first token, of the mean, or of the surest."
        ),
    ] = "simple",
    outside: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="Leave out this label; O if none is named.")
    ] = None,
    batch: o.Batch = 32,
    engine: o.Engine = "onnx",
    quant: o.Quantization = None,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    as_json: o.AsJson = False,
) -> None:
    """What the words of texts are, with the characters (from, to) that each entity stands at."""
    from ..inputs import read
    from ..model_loading import load

    texts = read(text, file)
    loaded = load(model, engine, quant, device, threads)
    found = loaded.tag(
        texts, aggregation=aggregation, outside=outside or ("O",), batch=batch, progress=progress()
    )
    if as_json:
        rows = zip(texts, found, strict=True)
        out_json([{"text": one, "entities": [e._asdict() for e in entities]} for one, entities in rows])
        return
    table(
        ("ENTITY", "LABEL", "SCORE", "FROM", "TO", "IN TEXT"),
        [
            (e.text, e.label, f"{e.score:.4f}", e.start, e.end, i + 1)
            for i, entities in enumerate(found)
            for e in entities
        ],
    )
