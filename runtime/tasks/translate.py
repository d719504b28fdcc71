"""Translation and summaries: an encoder reads a text, and a decoder generates the result."""

from __future__ import annotations

from typing import Unpack

from ...refimpl.checkpoint.translation import directed
from ...refimpl.errors import LimitError
from .base import TaskModel, expect_both
from .generate import Prompt, TextStream, generate, prompt_of
from .options import GenerateOptions, resolve


def translate(
    model: TaskModel, text: str, to: str | None, origin: str | None, **options: Unpack[GenerateOptions]
) -> TextStream:
    """Return the text's translation from the language `origin` into the language `to`, as a stream.

    How languages are named depends on the model:

    - T5 has a task for each pair of languages. For the task translation_en_to_de, give "en" and "de". The
      task's prefix and options are then used.
    - mBART and Marian have language tokens; see `refimpl.checkpoint.translation.directed`.
    - A model for a single pair of languages takes no names.
    """
    expect_both(model.config, "translate")
    named = [task for task in model.generation.tasks if task.startswith("translation_")]
    if named:
        task = f"translation_{origin}_to_{to}"
        if task not in named:
            raise LimitError(
                f"the model has no task {task!r:.80} (origin={origin!s:.20}, to={to!s:.20}); its tasks are "
                f"{', '.join(named)}"
            )
        return generate(model, text, task=task, **options)
    generation, source = directed(model.generation, prompt_of(model, text).encoder_ids or (), origin, to)
    resolved = resolve(generation, chat=False, **options)
    return TextStream(model, Prompt(list(generation.prompt), source), resolved)


def summarize(model: TaskModel, text: str, **options: Unpack[GenerateOptions]) -> TextStream:
    """Return a summary of the text as a stream.

    If the checkpoint names tasks, the task `summarization` is used.
    """
    expect_both(model.config, "summarize")
    task = "summarization" if model.generation.tasks else None
    return generate(model, text, task=task, **options)
