"""Many texts generated at a time, each as it would be alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...refimpl.decoding.logprobs import TokenLogprob
from ...refimpl.decoding.stop import FinishReason
from ...refimpl.errors import LimitError
from ..progress import Progress, silent
from .base import TaskModel
from .continuous_batching import run
from .documents import Schema, parsed
from .generate import Prompt, StreamedText, sequence
from .options import Options

BATCH = 8


class Completion(NamedTuple):
    """A text that was generated, its tokens, why it ended, and, where they were asked for, the tokens'
    log-probabilities and the schema; without a tokenizer the text is empty. It prints as its text."""

    tokens: list[int]
    text: str
    finish_reason: FinishReason | None
    logprobs: list[TokenLogprob] | None = None
    json_schema: Schema | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def parsed(self) -> Any:
        """The document of `json_schema`; see `documents.parsed`."""
        return parsed(self.text, self.json_schema, self.finish_reason)


def generate_many(
    model: TaskModel,
    prompts: Sequence[Prompt],
    options: Options,
    *,
    numbers: Sequence[int] | None = None,
    batch: int = BATCH,
    progress: Progress = silent,
) -> list[Completion]:
    """The answers to the prompts, in their order; `batch` of them are computed at a time.

    The random numbers of a text are those of (seed, its number), by default its index, whatever its
    neighbours and the size of the batch. Its logits are too, up to rounding: nearly tied tokens may be chosen
    otherwise than alone. Beams and drafts are for single texts.
    """
    if options.beams is not None or options.draft:
        raise LimitError(
            "a batch takes no beams and no draft, which are for one text; greedy=True turns off a model's "
            "own beams"
        )
    numbered = zip(prompts, range(len(prompts)) if numbers is None else numbers, strict=True)
    sequences = [sequence(model, prompt, options, number) for prompt, number in numbered]
    tokenizer = model.tokenizer
    texts = [None if tokenizer is None else StreamedText(tokenizer, options.stop) for _ in sequences]
    text_of = {id(one): text for one, text in zip(sequences, texts, strict=True)}
    done = 0
    for one, token in run(model.engine, sequences, batch):
        text = text_of[id(one)]
        if text is not None:
            if token is not None:
                text.push(token)
            if one.finish_reason is not None or text.ended:
                text.finish()
            if text.ended:
                one.finish("stop")
        if one.finish_reason is not None:
            done += 1
            progress("answering prompts", done, len(sequences))
    return [
        Completion(
            one.tokens,
            "" if text is None else text.text,
            one.finish_reason,
            None if options.logprobs is None else one.token_logprobs,
            options.json_schema,
        )
        for one, text in zip(sequences, texts, strict=True)
    ]
