"""Translation and summaries, by an encoder that reads a text and a decoder that writes the result."""

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
    """The text in the language `to`, translated from `origin`.

    T5 names languages in its tasks, translation_en_to_de: "en" and "de"; that task's prefix and options are
    used. mBART and Marian have tokens of languages, see `refimpl.checkpoint.translation.directed`. A model of
    one pair of languages takes no names.
    """
    expect_both(model.config, "translate")
    named = [task for task in model.generation.tasks if task.startswith("translation_")]
    if named:
        task = f"translation_{origin}_to_{to}"
        if task not in named:
            raise LimitError(f"the model names {', '.join(named)}, got from {origin} to {to}")
        return generate(model, text, task=task, **options)
    generation, source = directed(model.generation, prompt_of(model, text).encoder_ids or (), origin, to)
    resolved = resolve(generation, chat=False, **options)
    return TextStream(model, Prompt(list(generation.prompt), source), resolved)


def summarize(model: TaskModel, text: str, **options: Unpack[GenerateOptions]) -> TextStream:
    """A summary of the text: by the task `summarization` if the checkpoint names tasks."""
    expect_both(model.config, "summarize")
    task = "summarization" if model.generation.tasks else None
    return generate(model, text, task=task, **options)
