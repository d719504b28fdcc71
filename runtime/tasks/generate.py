"""Generate one text, and stream each part as soon as later tokens can no longer change it."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np

from ...refimpl.checkpoint.generation_config import Generation
from ...refimpl.config import LM, Decoder
from ...refimpl.decoding.beam import beam_search
from ...refimpl.decoding.constraint import Constraint
from ...refimpl.decoding.logprobs import TokenLogprob
from ...refimpl.decoding.loop import GeneratedSequence, prefill
from ...refimpl.decoding.loop import generate as generate_tokens
from ...refimpl.decoding.mtp import MTPDrafter
from ...refimpl.decoding.speculative import PromptLookup, speculate
from ...refimpl.decoding.stop import FinishReason, limit_new_tokens, split_at_stop_string
from ...refimpl.engine.protocol import Cache
from ...refimpl.errors import ArgumentError, LimitError
from ..ort import prefix_file
from ..ort.engine import OrtEngine
from ..ort.kv_cache import OrtCache
from ..text.chat_template import Message, Tool, Variables, common_prefix
from ..text.tokenizer import DecodeStream, Tokenizer
from .base import TaskModel
from .documents import parsed
from .options import GenerateOptions, Options, resolve
from .timed_engine import LONGEST_DRAFT

if TYPE_CHECKING:
    from ..text.call_parser import Answer, Event
    from ..text.chat_answers import ChatAnswers


class Prompt(NamedTuple):
    """The ids that the answer continues and, if the model has an encoder, the ids that the encoder reads."""

    ids: list[int]
    encoder_ids: list[int] | None


def generate(
    model: TaskModel,
    text: str,
    *,
    raw: bool = False,
    system: str | None = None,
    task: str | None = None,
    prefix: Path | str | None = None,
    tools: Sequence[Tool] | None = None,
    chat_template_kwargs: Variables | None = None,
    control_tokens: bool = False,
    **options: Unpack[GenerateOptions],
) -> TextStream:
    """Return the answer to a text as a stream.

    See `prompt_of` for the parameters that make the text a prompt, and `chat` for `tools`. `prefix` is a file
    with the cache of a text that begins like this one; see `prefix_cache`.
    """
    prompt = prompt_of(
        model,
        text,
        raw=raw,
        system=system,
        task=task,
        tools=tools,
        chat_template_kwargs=chat_template_kwargs,
        control_tokens=control_tokens,
    )
    resolved = resolve(generation_of(model, task), chat=is_chat(model, raw=raw), **options)
    limit_new_tokens(model.config, len(prompt.ids), resolved.max_new_tokens)
    cache = None if prefix is None else prefix_cache(model, prompt, Path(prefix))
    return TextStream(model, prompt, resolved, cache, answers_of(model, tools))


def prefix_cache(model: TaskModel, prompt: Prompt, path: Path) -> Cache | None:
    """Read a cache of the prompt's first tokens from a file. The cache covers the first tokens that the file
    and the prompt share.

    If the file doesn't exist, the model reads all tokens of the prompt except the last one, and the cache of
    these tokens is written to the file. Returns None for a prompt of one token. Also returns None if the
    model has windows or recurrent layers, and so the file's cache can't be cut to the shared tokens.

    Raises the errors of `runtime.ort.prefix_file`. Raises LimitError for an engine other than `OrtEngine`, or
    for a model with an encoder.
    """
    engine = model.engine
    if not isinstance(engine, OrtEngine) or prompt.encoder_ids is not None:
        raise LimitError(
            "`prefix` can be used only with a model without an encoder, and with the engine onnx"
        )
    *first, _ = prompt.ids
    if not first:
        return None
    if not path.exists():
        _, cache = prefill(engine, first, engine.start(1))
        assert isinstance(cache, OrtCache), "it is the engine's"
        prefix_file.write(path, engine, first, cache)
        return cache
    tokens, cache = prefix_file.read(path, engine)
    same = common_prefix(tokens, first)
    # A window may have dropped what it saw so far back, and a recurrence goes back to nothing.
    return cache.truncate(np.array([same])) if same >= cache.floor[0] else None


def is_chat(model: TaskModel, *, raw: bool = False) -> bool:
    """Return whether the prompt is made with the model's chat template."""
    return isinstance(model.config, Decoder) and model.template is not None and not raw


def as_messages(messages: str | Sequence[Message]) -> Sequence[Message]:
    """Return messages unchanged, or turn a text into one message of the user. Raises ArgumentError for an
    empty list.
    """
    if isinstance(messages, Sequence) and not isinstance(messages, str) and not messages:
        raise ArgumentError("messages must have at least one message")
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def chat(
    model: TaskModel,
    messages: str | Sequence[Message],
    *,
    tools: Sequence[Tool] | None = None,
    chat_template_kwargs: Variables | None = None,
    **options: Unpack[GenerateOptions],
) -> TextStream:
    """Return the model's next message in a conversation, as a stream.

    The model's chat template makes the prompt. `chat_template_kwargs` are variables of the template.

    `tools` are functions as the OpenAI API describes them. With `tools`, the streamed text contains the
    model's tool calls and thoughts with the marks around them. The stream's `answer` separates text, calls
    and thoughts. If one of the tools is `strict`, the model can call only the given tools, and calls of a
    strict tool match its schema. An option such as `json_schema` constrains only the text outside of calls.

    Raises CheckpointError for a model without a chat template. Raises ArgumentError for malformed messages or
    tools, and for a variable that the template doesn't have.
    """
    answers = answers_of(model, tools)
    ids = chat_ids(model, as_messages(messages), tools, answers, chat_template_kwargs)
    resolved = resolve(model.generation, chat=True, **options)
    return TextStream(model, Prompt(ids, None), resolved, answers=answers)


def answers_of(model: TaskModel, tools: Sequence[Tool] | None) -> ChatAnswers | None:
    """Return the parser for answers that may call the tools, or None if `tools` is None.

    `tools` are functions as the OpenAI API describes them. Raises ArgumentError for malformed tools, and for
    a tokenizer that drops the marks around calls.
    """
    if tools is None:
        return None
    from ..text.chat_answers import ChatAnswers  # 25 ms, for who has tools

    answers = ChatAnswers(model.chat_template, model.text, tools)
    if answers.functions and (mark := answers.lost_mark):
        raise ArgumentError(
            f"the model can't call tools: a call begins with {mark!r}, but the model's tokenizer removes "
            "this delimiter from texts"
        )
    return answers


def chat_ids(
    model: TaskModel,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    answers: ChatAnswers | None,
    chat_template_kwargs: Variables | None = None,
) -> list[int]:
    """Return the ids of the prompt that asks for the next message of a conversation.

    With `answers`, the model may call tools in that message.
    """
    if answers is None:
        return model.chat_template.encode(messages, chat_template_kwargs=chat_template_kwargs)
    return answers.ids(messages, tools, chat_template_kwargs)


def prompt_of(
    model: TaskModel,
    text: str,
    *,
    raw: bool = False,
    system: str | None = None,
    task: str | None = None,
    tools: Sequence[Tool] | None = None,
    chat_template_kwargs: Variables | None = None,
    control_tokens: bool = False,
) -> Prompt:
    """Return the prompt for a text: the ids that the answer continues, and the ids that an encoder reads.

    - `system`: a message before the text.
    - `raw`: send the text to the model unchanged. The chat template isn't applied, and an encoder's text gets
      no prefix. The model then continues the text.
    - `control_tokens`: convert names such as `<fim_prefix>` and `<extra_id_0>` in a raw text to the control
      tokens of these names.
    - `task`: a task that the checkpoint defines, with its own prefix and options.

    Raises ArgumentError for control tokens without `raw`, and for a system message, tools or variables of a
    chat template if no template is used.
    """
    if not isinstance(text, str):
        raise ArgumentError(
            f"a prompt must be a text, got {text!r:.80}: for several prompts, use generate_many"
        )
    model.expect(LM)
    for_templates = {
        "system": system,
        "tools": tools,
        "chat_template_kwargs": chat_template_kwargs,
    }
    for what, value in for_templates.items():
        if value and not is_chat(model, raw=raw):
            raise ArgumentError(
                f"{what} needs a chat template, but the model has no chat template, or raw=True turns it off"
            )
    if control_tokens and not raw:
        raise ArgumentError(
            "control_tokens needs raw=True: in a chat, the chat template writes control tokens"
        )
    if control_tokens:
        ids = model.text.with_special_tokens(model.text.encode_template(text))
    elif isinstance(model.config, Decoder):
        ids = prompt_ids(
            model, text, raw=raw, system=system, tools=tools, chat_template_kwargs=chat_template_kwargs
        )
    else:
        prefix = "" if raw else generation_of(model, task).prefix
        ids = model.text.encode(prefix + text, add_special_tokens=True)
    if isinstance(model.config, Decoder):
        return Prompt(ids, None)
    return Prompt(list(model.generation.prompt), ids)


def prompt_ids(
    model: TaskModel,
    text: str,
    *,
    raw: bool = False,
    system: str | None = None,
    tools: Sequence[Tool] | None = None,
    chat_template_kwargs: Variables | None = None,
) -> list[int]:
    """Return the ids of the prompt that asks a decoder for an answer.

    With `raw`, or if the model has no chat template, the prompt is the text itself, which the model
    continues.
    """
    if raw or model.template is None:
        return model.text.encode(text, add_special_tokens=True)
    before = [] if system is None else [{"role": "system", "content": system}]
    answers = answers_of(model, tools)
    return chat_ids(model, [*before, *as_messages(text)], tools, answers, chat_template_kwargs)


def generation_of(model: TaskModel, task: str | None = None) -> Generation:
    """Return the checkpoint's options of generation for one of its tasks, or its general options if `task` is
    None.

    Raises LimitError for a task that the checkpoint doesn't define.
    """
    tasks = model.generation.tasks
    if task is None:
        return model.generation
    if task not in tasks:
        raise LimitError(
            f"task must be one of the model's tasks ({', '.join(tasks) or 'none'}), got {task!r:.60}"
        )
    return tasks[task]


def sequence(model: TaskModel, prompt: Prompt, options: Options, index: int = 0) -> GeneratedSequence:
    """Return a new sequence that answers a prompt. The sequence's random numbers come from (seed, index)."""
    return GeneratedSequence(
        prompt.ids,
        options.sampler,
        frozenset(model.generation.eos if options.stop_on_eos else ()),
        options.max_new_tokens,
        options.seed,
        index,
        encoder_ids=prompt.encoder_ids,
        logprobs=options.logprobs,
        constraint=_constraint(model, prompt, options),
    )


def _constraint(model: TaskModel, prompt: Prompt, options: Options) -> Constraint | None:
    """Return what constrains a text: a formal language, and a budget for the number of tokens in its
    thoughts.

    Returns None if the options ask for neither.
    """
    language, budget = options.language, options.thinking_token_budget
    inner = None if language is None else model.constraints.constraint(language)
    if budget is None:
        return inner
    from ..text.chat_answers import ChatAnswers
    from ..text.thought_budget import ThoughtBudget

    answers = ChatAnswers(model.chat_template, model.text)
    thoughts, thinking = answers.form.thoughts, answers.thinks_after(prompt.ids)
    if thoughts is None:
        return inner
    return ThoughtBudget(budget, thoughts, model.text, answers.marks, inner, thinking=thinking)


class TextStream:
    """A text that is being generated. Iterate over the stream once to get the parts of the text, or print the
    stream to wait for the whole text.

    `tokens` has the ids generated so far, and `text` has the text that was yielded so far. When the text is
    complete:

    - `complete` is true.
    - `finish_reason` says why the text ended.
    - `timings` says how long the generation took.
    - `cache` contains the prompt and all new tokens except the last. After beam search, `cache` is None.
    """

    def __init__(
        self,
        model: TaskModel,
        prompt: Prompt,
        options: Options,
        cache: Cache | None = None,
        answers: ChatAnswers | None = None,
    ) -> None:
        limit_new_tokens(model.config, len(prompt.ids), options.max_new_tokens)
        self._schema = options.json_schema
        if answers is not None:
            from .held_answers import held

            ids, options = held(model, answers, prompt.ids, options)
            prompt = Prompt(ids, None)
        self._model, self._options, self._answers = model, options, answers
        self._sequence = sequence(model, prompt, options)
        self._cached_tokens = 0 if cache is None else int(cache.lengths[0])
        self._times: list[float] = []
        self.cache = cache
        self.text = ""
        self.complete = self._stopped = False
        self._parts = self._generate()

    def __iter__(self) -> Iterator[str]:
        return self._parts

    def __next__(self) -> str:
        return next(self._parts)

    def __str__(self) -> str:
        """Generate the rest of the text, and return the whole text."""
        for _ in self._parts:
            pass
        return self.text

    def __repr__(self) -> str:
        """Return a description with the text so far, without generating more of the text."""
        state = self.finish_reason or "not complete: iterate over it, or print it"
        return f"<TextStream {self.text!r}, {state}>"

    def stop(self) -> None:
        """End the text after the token that is being computed. This may be called from a signal handler."""
        self._stopped = True

    @property
    def prompt(self) -> Sequence[int]:
        """The token ids of the prompt."""
        return self._sequence.prompt

    @property
    def tokens(self) -> list[int]:
        return self._sequence.tokens

    @property
    def logprobs(self) -> list[TokenLogprob] | None:
        """For each of `tokens`, the log-probability and the likeliest tokens at the same position.

        The value is None unless the options ask for `logprobs`.
        """
        return None if self._options.logprobs is None else self._sequence.token_logprobs

    @property
    def answer(self) -> Answer:
        """The thoughts, the text and the calls of a chat with `tools`.

        The first use of this property generates the rest of the text. Raises ArgumentError for a text without
        `tools`.
        """
        if self._answers is None:
            raise ArgumentError("`answer` can be used only in a chat with tools: set `tools`")
        return self._answers.answer(self.prompt, str(self), self.finish_reason)

    def events(self) -> Iterator[Event]:
        """Yield pieces of the answer's thoughts, text and calls, each as soon as later tokens can't change
        it.

        Raises ArgumentError for a text without `tools`.
        """
        if self._answers is None:
            raise ArgumentError("events() can be used only in a chat with tools: set `tools`")
        parser = self._answers.parser(thinking=self._answers.thinks_after(self.prompt))
        for part in self:
            yield from parser.feed(part)
        yield from parser.finish(cut=self.finish_reason != "stop")

    @property
    def parsed(self) -> Any:
        """The document that the option `json_schema` asked for, parsed by `documents.parsed`.

        The first use of this property generates the rest of the text.
        """
        text = str(self) if self._answers is None else self.answer.text
        return parsed(text, self._schema, self.finish_reason)

    @property
    def max_new_tokens(self) -> int:
        """The largest number of new tokens that the options allow; the context may have room for fewer."""
        return self._options.max_new_tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._sequence.finish_reason

    @property
    def timings(self) -> dict[str, float]:
        """How fast the text was generated: numbers of tokens, seconds, and tokens per second.

        The phase until the first token (prefill) and the generation of the tokens after it (decode) are
        measured separately.
        """
        begin, *tokens = self._times or [0.0]
        first_s = tokens[0] - begin if tokens else 0.0
        rest_s = tokens[-1] - tokens[0] if tokens else 0.0
        prompt_tokens = len(self._sequence.encoder_ids or self._sequence.prompt)
        computed = prompt_tokens - self._cached_tokens
        after_first = max(len(self.tokens) - 1, 0)
        return {
            "prompt_tokens": prompt_tokens,
            "cached_tokens": self._cached_tokens,
            "new_tokens": len(self.tokens),
            "first_token_s": first_s,
            "total_s": first_s + rest_s,
            "prefill_tokens_per_s": computed / first_s if first_s else 0.0,
            "decode_tokens_per_s": after_first / rest_s if rest_s else 0.0,
        }

    def ids(self) -> Iterator[int]:
        """Generate the text, and yield the new ids one by one. This needs no tokenizer."""
        self._times = [time.perf_counter()]
        tokens = self._decode(self.cache)
        self.cache = None
        while True:
            try:
                token = next(tokens)
            except StopIteration as end:
                self.cache = end.value
                if len(self._times) == 1:  # it stopped before the first token
                    self._times.append(time.perf_counter())
                return
            # Beam search gives its tokens all at once.
            first = len(self._times) == 1
            self._times.append(self._times[-1] if self._options.beams and not first else time.perf_counter())
            yield token

    def _decode(self, cache: Cache | None) -> Generator[int, None, Cache | None]:
        """Run the kind of decoding that the options select, and yield the new ids.

        The generator's return value is the cache, or None after beam search.
        """
        engine, sequence, options = self._model.engine, self._sequence, self._options
        if isinstance(options.draft, MTPDrafter):
            if options.draft.engine is not engine:
                raise LimitError(
                    "an mtp drafter can draft only for its own model: use this model's mtp_drafter()"
                )
            engine = options.draft
        if options.draft:
            return (yield from speculate(engine, sequence, options.draft, cache=cache))
        if options.beams is None:
            timed = self._model.drafting
            if timed is None or options.draft is False:
                return (yield from generate_tokens(engine, sequence, cache))
            lookup = PromptLookup(cost=timed.cost)
            return (yield from speculate(timed, sequence, lookup, LONGEST_DRAFT, cache))
        search = options.search(sequence.prompt, sequence.stop_ids, sequence.encoder_ids)
        best = beam_search(engine, search, cache)[0]
        for token in best.tokens:
            sequence.tokens.append(token)
            yield token
            if sequence.finish_reason is not None:
                return None
        sequence.finish(best.finish_reason)
        return None

    def _generate(self) -> Iterator[str]:
        stream = StreamedText(self._model.text, self._options.stop, self._options.shown)
        for token in self.ids():
            yield from self._emit(stream, stream.push(token))
            if self._stopped:
                self._sequence.finish("stop")
        yield from self._emit(stream, stream.finish())
        self.complete = True

    def _emit(self, stream: StreamedText, part: str) -> Iterator[str]:
        if stream.ended:
            self._sequence.finish("stop")
        self.text = stream.text
        if part:
            yield part


class StreamedText:
    """Turn tokens into text one by one. Only text that later tokens can no longer change is returned.

    The text ends before the first stop string. Special tokens in `shown` become part of the text.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], shown: Collection[int] = ()) -> None:
        self._stream, self._stops, self._held_back = DecodeStream(tokenizer, shown), stops, ""
        self.text, self.ended = "", False

    def push(self, token: int) -> str:
        """Add a token, and return the new text that later tokens can no longer change."""
        return self._certain_text(self._stream.push(token))

    def finish(self) -> str:
        """Return the text that was still held back. Call this after the last token."""
        if self.ended:
            return ""
        part = self._certain_text(self._stream.finish())
        held_back, self._held_back = self._held_back, ""
        self.text += held_back
        return part + held_back

    def _certain_text(self, text: str) -> str:
        certain, self._held_back, self.ended = split_at_stop_string(self._held_back + text, self._stops)
        self.text += certain
        return certain
