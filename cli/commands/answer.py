"""`tfm-cli answer`: where in a text the answer to a question stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import options as o
from ..console import out_json, progress, table

GROUP = "Read texts"


def command(
    model: o.Model,
    question: Annotated[str | None, typer.Argument(help="The question.")] = None,
    context: Annotated[str | None, typer.Argument(help="The text; else --file or stdin, whole.")] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="A file with the text.")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False, help="A file with a question on each line."
        ),
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Show so many answers to each.")] = 1,
    longest: Annotated[int, typer.Option(metavar="N", min=1, help="The most tokens of an answer.")] = 15,
    may_be_none: Annotated[
        bool, typer.Option("--may-be-none", help="That the text has no answer is an answer, too.")
    ] = False,
    window: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Tokens of a long text that are read at once.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Tokens that neighbouring windows share.")
    ] = None,
    batch: o.Batch = 32,
    engine: o.Engine = "onnx",
    quant: o.Quantization = None,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    as_json: o.AsJson = False,
) -> None:
    """Answers out of a text of any length, with the characters (from, to) that they stand at."""
    from ..inputs import read, whole
    from ..model_loading import load

    if questions is not None:
        # With the questions in a file, the one argument that is left is the text.
        if context is not None:
            raise typer.BadParameter("give the question as argument or --questions, not both")
        question, context = None, question
    elif question is None:
        raise typer.BadParameter("give a question: as argument, or with --questions")
    asked = read(None if question is None else [question], questions, "question")
    if context is not None and file is not None:
        raise typer.BadParameter("give the text as argument or as --file, not both")
    text = whole(file, "text") if context is None else context
    loaded = load(model, engine, quant, device, threads)
    found = loaded.answer(
        [(one, text) for one in asked], count=top, longest=longest, may_be_none=may_be_none, window=window,
        stride=stride, batch=batch, progress=progress(),
    )  # fmt: skip
    if as_json:
        rows = zip(asked, found, strict=True)
        out_json([{"question": one, "answers": [a._asdict() for a in answers]} for one, answers in rows])
        return
    table(
        ("ANSWER", "SCORE", "FROM", "TO", "TO QUESTION"),
        [
            (a.text or "(none)", f"{a.score:.4f}", a.start, a.end, i + 1)
            for i, answers in enumerate(found)
            for a in answers
        ],
    )
