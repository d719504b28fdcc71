"""`tfm-cli tag`: finds entities in texts."""

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
            help="How to join tokens into entities. none: each token is an entity. simple: neighbouring "
            "tokens with the same label are joined. first, average, max: all tokens of a word get one label "
            "before they are joined. That label comes from the word's first token (first), from the mean of "
            "its tokens' scores (average) or from the token with the highest score (max)."
        ),
    ] = "simple",
    outside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            help="Leave out entities with this label; by default O. May be given several times.",
        ),
    ] = None,
    batch: o.Batch = 32,
    running: o.Running,
    as_json: o.AsJson = False,
    fleet: f.Fleet,
) -> None:
    """Find the entities in texts, such as people and places. Prints each one with its label and position.

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
