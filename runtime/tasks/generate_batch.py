"""Generate many texts at a time, each as if it were generated alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...refimpl.decoding.logprobs import TokenLogprob
from ...refimpl.decoding.loop import CHUNK
from ...refimpl.decoding.stop import FinishReason
from ...refimpl.errors import LimitError
from ..progress import Progress, silent
from ..serving_defaults import PREFIX_BYTES
from .base import TaskModel
from .continuous_batching import Batch, Row
from .documents import Schema, parsed
from .generate import Prompt, StreamedText, sequence
from .options import Options
from .prefixes import Prefixes

if TYPE_CHECKING:
    from ..text.call_parser import Answer
    from ..text.chat_answers import ChatAnswers

BATCH = 8


class Completion(NamedTuple):
    """A generated text, its tokens, and the reason why it ended. `print` shows the text.

    `logprobs` and `json_schema` are set if the options ask for them. With tools, `answer` has the thoughts,
    text and calls. If the model has no tokenizer, the text is empty.
    """

    tokens: list[int]
    text: str
    finish_reason: FinishReason | None
    logprobs: list[TokenLogprob] | None = None
    json_schema: Schema | None = None
    answer: Answer | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def parsed(self) -> Any:
        """The document that the option `json_schema` asked for, parsed by `documents.parsed`."""
        text = self.text if self.answer is None else self.answer.text
        return parsed(text, self.json_schema, self.finish_reason)


def generate_many(
    model: TaskModel,
    prompts: Sequence[Prompt],
    options: Options,
    *,
    numbers: Sequence[int] | None = None,
    batch: int = BATCH,
    progress: Progress = silent,
    answers: ChatAnswers | None = None,
) -> list[Completion]:
    """Return the answers to the prompts, in the prompts' order; `batch` answers are generated at a time.

    `answers` is the parser for answers that may call tools.

    The random numbers of a text come from `seed` and the text's number in `numbers`, by default its index.
    Other texts and the size of the batch change neither these random numbers nor the text's logits, except
    for rounding. So if two tokens are nearly tied, a text may get another token in a batch than alone.

    Raises LimitError for beam search and speculative decoding, which work only for single texts.
    """
    if options.beams is not None or options.draft:
        raise LimitError(
            "`beams` and `draft` can't be used for several texts at once; if the model sets beams, use "
            "greedy=True"
        )
    stated: list[tuple[Prompt, Options]] = [(prompt, options) for prompt in prompts]
    if answers is not None:
        from .held_answers import held

        asked = [held(model, answers, prompt.ids, options) for prompt in prompts]
        stated = [(Prompt(ids, None), own) for ids, own in asked]
    numbered = zip(stated, range(len(prompts)) if numbers is None else numbers, strict=True)
    tokenizer = model.tokenizer
    rows = [
        Row(
            sequence(model, prompt, own, number),
            drafts=own.draft is not False,
            text=None if tokenizer is None else StreamedText(tokenizer, own.stop, own.shown),
        )
        for (prompt, own), number in numbered
    ]
    prefixes = Prefixes(PREFIX_BYTES, None if model.same_bits else CHUNK)
    done = 0
    for outcome in Batch(model.engine, CHUNK, prefixes, model.drafting).run(rows, batch):
        if outcome.row.ended:
            done += 1
            progress("answering prompts", done, len(rows))

    def completion(row: Row) -> Completion:
        made, text = row.sequence, "" if row.text is None else row.text.text
        logprobs = None if options.logprobs is None else made.token_logprobs
        answer = None if answers is None else answers.answer(made.prompt, text, made.finish_reason)
        return Completion(made.tokens, text, made.finish_reason, logprobs, options.json_schema, answer)

    return [completion(row) for row in rows]
