"""The command `tfm-cli fill`, which predicts the tokens for the masks in a text."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options as o
from ..console import out_json, progress, table

GROUP = "Read texts"


@o.grouped
def command(
    *,
    model: o.Model = "demo-fill",
    text: o.Texts = None,
    file: o.Lines = None,
    top: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="The number of tokens to show for each mask, the likeliest first."
        ),
    ] = 5,
    batch: o.Batch = 8,
    running: o.Running,
    as_json: o.AsJson = False,
) -> None:
    """Show the likeliest tokens for each mask in a text.

    Write each mask in the text as the model's own mask token, such as [MASK] or <mask>.

    Example: tfm-cli fill "Paris is the [MASK] of France."
    """
    from ..inputs import read

    texts = read(text, file)
    loaded = running.load(model, "fill")
    fillings = loaded.fill(texts, count=top, batch=batch, progress=progress())
    if as_json:
        rows = zip(texts, fillings, strict=True)
        out_json(
            [{"text": one, "masks": [[f._asdict() for f in mask] for mask in masks]} for one, masks in rows]
        )
        return
    table(
        ("FILLING", "SCORE", "MASK", "OF TEXT"),
        [
            (filling.text, f"{filling.score:.4f}", k + 1, i + 1)
            for i, masks in enumerate(fillings)
            for k, mask in enumerate(masks)
            for filling in mask
        ],
    )
