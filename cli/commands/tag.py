"""`tfm-cli tag`: entities of texts."""

from __future__ import annotations

from typing import Annotated

import typer

from ...refimpl.checkpoint.labels import Aggregation
from .. import fleet as f
from .. import options as o
from ..console import out_json, progress, table

GROUP = "Read texts"


@o.grouped
def command(
    *,
    model: o.Model = "demo-tag",
    text: o.Texts = None,
    file: o.Lines = None,
    aggregation: Annotated[
        Aggregation,
        typer.Option(
            help="How tokens become entities. none: each token is one. simple: neighbouring tokens with the "
            "same label are joined. first, average, max: before they are joined, all tokens of a word get "
            "one label, that of the first token, of the mean, or of the surest token."
        ),
    ] = "simple",
    outside: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="Leave out this label, by default O; may be repeated."),
    ] = None,
    batch: o.Batch = 32,
    running: o.Running,
    as_json: o.AsJson = False,
    fleet: f.Fleet,
) -> None:
    """Find the entities in texts, with their labels and where they begin and end.

    Example: tfm-cli tag "Ada Miller lives in London."

    Example: tfm-cli tag --ray local --file texts.jsonl --out entities
    """
    if fleet.asked:
        f.on_fleet(
            "tag", fleet, running, model, file,
            options={"batch": batch, "aggregation": aggregation, "outside": outside or ["O"]},
            refused={"TEXT": text, "--json": as_json},
        )  # fmt: skip
        return
    from ..inputs import read

    texts = read(text, file)
    loaded = running.load(model, "tag")
    entities_of = loaded.tag(
        texts, aggregation=aggregation, outside=outside or ("O",), batch=batch, progress=progress()
    )
    if as_json:
        rows = zip(texts, entities_of, strict=True)
        out_json([{"text": one, "entities": [e._asdict() for e in entities]} for one, entities in rows])
        return
    table(
        ("ENTITY", "LABEL", "SCORE", "FROM", "TO", "IN TEXT"),
        [
            (entity.text, entity.label, f"{entity.score:.4f}", entity.start, entity.end, i + 1)
            for i, entities in enumerate(entities_of)
            for entity in entities
        ],
    )
