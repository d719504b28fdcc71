"""The command `tfm-cli answer`, which finds the answer to a question in a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import options as o
from ..console import out_json, progress, table

GROUP = "Read texts"


@o.grouped
def command(
    *,
    model: o.Model = "demo-answer",
    question: Annotated[
        str | None,
        typer.Argument(help="The question to answer. Leave out this argument if --questions is given."),
    ] = None,
    context: Annotated[
        str | None,
        typer.Argument(
            help="The text in which to find the answer. Without this argument, tfm reads the text from "
            "--file or stdin."
        ),
    ] = None,
    file: o.TextFile = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Read the questions from this file, with one question on each line.",
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(metavar="N", min=1, help="Show the N best answers to each question.")
    ] = 1,
    longest: Annotated[
        int, typer.Option(metavar="N", min=1, help="The maximum length of an answer in tokens.")
    ] = 15,
    may_be_none: Annotated[
        bool,
        typer.Option(
            "--may-be-none",
            help="Allow the model to say that the text contains no answer. tfm then prints "
            "(none) as the answer.",
        ),
    ] = False,
    window: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Split a long text into windows of N tokens. The default is 384."
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="The number of tokens that two neighbouring windows share. The default is 128.",
        ),
    ] = None,
    batch: o.Batch = 32,
    running: o.Running,
    as_json: o.AsJson = False,
) -> None:
    """Find the answer to a question in a text of any length, and show where the answer begins and ends.

    Example: tfm-cli answer "Where does Ben live?" "Ada lives in Rome. Ben lives in Oslo."
    """
    from ..inputs import read, read_all

    if questions is not None:
        # With the questions in a file, the one argument that is left is the text.
        if context is not None:
            raise typer.BadParameter("give the question as argument or with --questions, not both")
        question, context = None, question
    elif question is None:
        raise typer.BadParameter("the question is missing: give it as argument, or with --questions")
    asked = None if question is None else [question]
    all_questions = read(asked, questions, "question", stdin_is_other=context is None and file is None)
    if context is not None and file is not None:
        raise typer.BadParameter("give the text as argument or as --file, not both")
    text = read_all(file, "text") if context is None else context
    if not text.strip():
        raise typer.BadParameter("the text is empty: give it after the question, with --file, or on stdin")
    loaded = running.load(model, "answer")
    answers = loaded.answer(
        [(one, text) for one in all_questions],
        count=top,
        longest=longest,
        may_be_none=may_be_none,
        window=window,
        stride=stride,
        batch=batch,
        progress=progress(),
    )
    if as_json:
        rows = zip(all_questions, answers, strict=True)
        out_json([{"question": one, "answers": [span._asdict() for span in spans]} for one, spans in rows])
        return
    table(
        ("ANSWER", "SCORE", "FROM", "TO", "TO QUESTION"),
        [
            (span.text or "(none)", f"{span.score:.4f}", span.start, span.end, i + 1)
            for i, spans in enumerate(answers)
            for span in spans
        ],
    )
