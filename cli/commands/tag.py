"""The command `tfm-cli tag`, which finds entities in texts."""

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
            help="How to join tokens into entities. none makes each token an entity. simple joins "
            "neighbouring tokens with the same label. first, average and max first give all tokens of "
            "a word the same label. first takes the label of the word's first token. average takes the "
            "label with the best mean score over the word's tokens. max takes the label of the token "
            "with the highest score."
        ),
    ] = "simple",
    outside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            help="Leave out entities with this label. May be given several times. The default is O.",
        ),
    ] = None,
    batch: o.Batch = 32,
    running: o.Running,
    as_json: o.AsJson = False,
    fleet: f.Fleet,
) -> None:
    """Find the entities in texts, such as people and places. Print each entity with its label and position.

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
