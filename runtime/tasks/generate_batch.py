"""Many texts generated at a time, each as it would be alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...refimpl.decoding.loop import GeneratedSequence
from ...refimpl.decoding.stop import FinishReason
from ...refimpl.errors import LimitError
from .continuous_batching import run
from .encoder_batches import Progress, silent
from .generate import Options, Prompt, StreamedText

if TYPE_CHECKING:
    from .model import Model

BATCH = 8


class Completion(NamedTuple):
    """A text that was generated, its tokens, and why it ended; without a tokenizer the text is empty."""

    tokens: list[int]
    text: str
    finish_reason: FinishReason | None


def generate_many(
    model: Model,
    asked: Sequence[Prompt],
    options: Options,
    *,
    batch: int = BATCH,
    progress: Progress = silent,
) -> list[Completion]:
    """The answers to what was asked, in its order; `batch` are on their way at a time.

    The random numbers of a text are those of (seed, its place among the others), so a text depends
    neither on its neighbours nor on the size of the batch. Beams and drafts are for single texts.
    """
    if options.beams is not None or options.draft is not None:
        raise LimitError(
            "a batch takes no beams and no draft: both make several rows or steps of one text; greedy leaves "
            "out the beams that are a model's own"
        )
    stop_ids = frozenset(model.generation.eos if options.stop_on_eos else ())
    rows = [
        GeneratedSequence(
            a.prompt, options.sampler, stop_ids, options.max_new_tokens, options.seed, i, encoder_ids=a.source
        )
        for i, a in enumerate(asked)
    ]
    tokenizer = model.tokenizer
    texts = [None if tokenizer is None else StreamedText(tokenizer, options.stop) for _ in rows]
    done = 0
    for row, token in run(model.engine, rows, batch):
        written = texts[row.index]
        if written is not None and token is not None:
            written.push(token)
        if written is not None and (row.finish_reason is not None or written.ended):
            written.finish()
            if written.ended:
                row.finish("stop")
        if row.finish_reason is not None:
            done += 1
            progress(done, len(rows))
    return [
        Completion(row.tokens, "" if written is None else written.text, row.finish_reason)
        for row, written in zip(rows, texts, strict=True)
    ]
