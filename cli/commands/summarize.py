"""`tfm-cli summarize`: a text made short."""

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
    """Make a text short: generate with the model's own prefix and options for that."""
    from ..model_loading import load

    asked = read_prompt(text, file)
    given = o.checked(beams=beams, length_penalty=length_penalty, max_new_tokens=max_new_tokens)
    begin = time.perf_counter()
    loaded = load(model, engine, quant, device, threads)
    load_s = time.perf_counter() - begin
    answer = loaded.summarize(asked, **given)
    give(answer, as_json=as_json, no_escape=no_escape, load_s=load_s)
