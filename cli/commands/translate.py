"""`tfm-cli translate`: a text in another language."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .. import options as o
from .generate import give, read_prompt

GROUP = "Write texts"


def command(
    model: o.Model,
    text: Annotated[str | None, typer.Argument(help="The text; else --file or stdin, whole.")] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="A file with the text.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="LANGUAGE", help="Into which language, as the model names it.")
    ] = None,
    origin: Annotated[
        str | None, typer.Option("--from", metavar="LANGUAGE", help="Out of which language.")
    ] = None,
    beams: o.Beams = None,
    length_penalty: o.LengthPenalty = None,
    max_new_tokens: o.MaxNewTokens = None,
    engine: o.Engine = "onnx",
    quant: o.Quantization = None,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    as_json: o.AsJson = False,
    no_escape: o.NoEscape = False,
) -> None:
    """Translate a text: generate with the model's own prefix or tokens of the two languages."""
    from ..model_loading import load

    asked = read_prompt(text, file)
    given = o.checked(beams=beams, length_penalty=length_penalty, max_new_tokens=max_new_tokens)
    begin = time.perf_counter()
    loaded = load(model, engine, quant, device, threads)
    load_s = time.perf_counter() - begin
    answer = loaded.translate(asked, to=to, origin=origin, **given)
    give(answer, as_json=as_json, no_escape=no_escape, load_s=load_s)
