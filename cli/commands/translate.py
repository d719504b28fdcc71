"""`tfm-cli translate`: a text in another language."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from .. import options as o
from ..console import out_answer
from ..inputs import read_prompt

GROUP = "Write texts"


def command(
    model: o.Model = "demo-translate",
    text: o.Text = None,
    file: o.TextFile = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="LANGUAGE", help="The language to translate to, as the model names it."),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option("--from", metavar="LANGUAGE", help="The language of the text, as the model names it."),
    ] = None,
    beams: o.Beams = None,
    length_penalty: o.LengthPenalty = None,
    max_new_tokens: o.MaxNewTokens = None,
    engine: o.Engine = "onnx",
    quant: o.Quantization = None,
    adapter: o.Adapter = None,
    no_adapter: o.NoAdapter = False,
    ignore_key: o.IgnoreKey = None,
    verbose: o.Verbose = False,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    as_json: o.AsJson = False,
    no_escape: o.NoEscape = False,
) -> None:
    """Translate a text, with the model's own prefix or its tokens for the two languages.

    Example: tfm-cli translate "The old cat sleeps in the garden."
    """
    from ..model_loading import computed_by, load

    text = read_prompt(text, file)
    options = o.checked(beams=beams, length_penalty=length_penalty, max_new_tokens=max_new_tokens)
    begin = time.perf_counter()
    choice = o.adapter_choice(adapter, no_adapter)
    loaded = load(
        model, engine, quant, device, threads, task="translate", adapter=choice, ignore_keys=ignore_key or ()
    )
    load_s = time.perf_counter() - begin
    answer = loaded.translate(text, to=to, origin=origin, **options)
    out_answer(answer, as_json=as_json, no_escape=no_escape, load_s=load_s, by=computed_by(loaded))
