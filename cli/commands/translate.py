"""The command `tfm-cli translate`, which translates a text."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from .. import options as o
from ..console import out_answer
from ..inputs import read_prompt

GROUP = "Write texts"


@o.grouped
def command(
    *,
    model: o.Model = "demo-translate",
    text: o.Text = None,
    file: o.TextFile = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="LANGUAGE", help="The language to translate to, by the model's own name for the language."
        ),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="LANGUAGE",
            help="The language of the given text, by the model's own name for the language.",
        ),
    ] = None,
    options: o.TextOptions,
    running: o.Running,
    as_json: o.AsJson = False,
    no_escape: o.NoEscape = False,
) -> None:
    """Translate a text. The model's own prefix or its language tokens tell the model the two languages.

    Example: tfm-cli translate "The old cat sleeps in the garden."
    """
    from ..model_loading import computed_by

    text = read_prompt(text, file)
    chosen = o.checked(options)
    begin = time.perf_counter()
    loaded = running.load(model, "translate")
    load_s = time.perf_counter() - begin
    answer = loaded.translate(text, to=to, origin=origin, **chosen)
    out_answer(answer, as_json=as_json, no_escape=no_escape, load_s=load_s, by=computed_by(loaded))
