"""A model as its users have it: an engine with its tokenizer and template, and a method for each task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np
from numpy.typing import ArrayLike

from ...refimpl.checkpoint.custom_code import describe
from ...refimpl.checkpoint.labels import Aggregation
from ...refimpl.config import LM, Decoder
from ...refimpl.decoding.mtp import MTPDrafter
from ...refimpl.decoding.sampler import Sampler
from ...refimpl.decoding.speculative import DraftModel
from ...refimpl.decoding.speech import PAPER, TEMPERATURES, Limits
from ...refimpl.engine.protocol import Cache, Engine, MTPEngine
from ...refimpl.errors import ArgumentError, LimitError, TfmError
from ..bundle.bundle import open_bundle
from ..hardware import trim
from ..hub.checked_bundles import checking
from ..ort import kernel_backend
from ..ort.engine import OrtEngine
from ..progress import Progress, silent
from ..text.chat_template import Message, Tool, Variables
from ..text.template_process import SHARED
from ..text.tokenizer import read_tokenizer
from . import (
    answer,
    classify,
    embed,
    encoder_batches,
    fill,
    generate,
    generate_batch,
    rerank,
    tag,
    translate,
)
from . import logits as logits_of
from . import options as generate_options
from .base import TaskModel, task_of
from .declared_options import spelled_out
from .encoder_batches import Texts
from .generate import Prompt, TextStream
from .options import GenerateOptions, Options, SamplingOptions

if TYPE_CHECKING:
    from ..text.subtitles import Segment


class ClosedEngine:
    """In the place of the engine of a model that was closed."""

    def __getattr__(self, name: str) -> Any:
        raise ArgumentError("the model was closed: load it again")


class Model(TaskModel):
    """A model with a method for each task; a task that its head isn't for is a ConfigError.

    Options of generation are keywords; `help()` of a method that takes them lists all. At the end of a `with`
    block it is closed.
    """

    def __repr__(self) -> str:
        if isinstance(self.engine, ClosedEngine):
            return f"<Model {self.name}, closed>"
        engine, task = self.engine, task_of(self.config)
        how = (
            f"{engine.quant} on {engine.backend}" if isinstance(engine, OrtEngine) else type(engine).__name__
        )
        return f"<Model {self.name}, to {task}: {how}, context of {self.context} tokens>"

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory of the weights back; whatever computes after it is an ArgumentError."""
        self.engine, self.drafting = cast(Engine, ClosedEngine()), None
        trim()

    @spelled_out(GenerateOptions)
    def generate(
        self,
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
        """The answer to a text, streamed: iterate over it.

        `system` is a message that a chat model reads first. `raw` leaves out the chat template: the model
        continues the text. `task` is one that the checkpoint
        names, with its own prefix and options. `prefix` is a file with the cache of a text that begins alike,
        which is written where it isn't there (`generate.prefix_cache`). `chat_template_kwargs` are variables
        of the chat template; `control_tokens` reads their names in a raw text as these tokens. `tools` are as
        in `chat`.
        """
        return generate.generate(
            self,
            text,
            raw=raw,
            system=system,
            task=task,
            prefix=prefix,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
            control_tokens=control_tokens,
            **options,
        )

    @spelled_out(GenerateOptions)
    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        chat_template_kwargs: Variables | None = None,
        **options: Unpack[GenerateOptions],
    ) -> TextStream:
        """The model's next message in a conversation, streamed; see `generate.chat`.

        Messages are `{"role": "user", "content": "hi"}`, with the roles system, developer, user, assistant
        and tool; a text is one of the user's. All of them are read each time: a `Conversation` keeps what was
        read. `chat_template_kwargs` are variables of the chat template, such as `{"enable_thinking": False}`.
        With `tools` the stream's `answer` has the model's thoughts, text and calls.
        """
        return generate.chat(
            self, messages, tools=tools, chat_template_kwargs=chat_template_kwargs, **options
        )

    @spelled_out(GenerateOptions)
    def generate_many(
        self,
        prompts: Sequence[str],
        *,
        raw: bool = False,
        system: str | None = None,
        task: str | None = None,
        numbers: Sequence[int] | None = None,
        batch: int = generate_batch.BATCH,
        progress: Progress = silent,
        tools: Sequence[Tool] | None = None,
        chat_template_kwargs: Variables | None = None,
        control_tokens: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> list[generate_batch.Completion]:
        """The answers to many texts, `batch` at a time; see `generate_batch.generate_many`.

        Each is what `generate` gives, with the random numbers of (seed, its number), by default its index.
        With `tools` each has an `answer`, as in `chat`.
        """
        if isinstance(prompts, str):
            raise ArgumentError(
                f"prompts must be a list of texts, got one text: pass [{prompts!r:.60}], or use generate"
            )
        prompt_ids = [
            self.ask(
                text,
                raw=raw,
                system=system,
                task=task,
                tools=tools,
                chat_template_kwargs=chat_template_kwargs,
                control_tokens=control_tokens,
            )
            for text in prompts
        ]
        resolved = self.options(raw=raw, task=task, **options)
        answers = generate.answers_of(self, tools)
        return generate_batch.generate_many(
            self, prompt_ids, resolved, numbers=numbers, batch=batch, progress=progress, answers=answers
        )

    @spelled_out(GenerateOptions)
    def generate_ids(self, ids: Sequence[int], **options: Unpack[GenerateOptions]) -> list[int]:
        """The new ids after a prompt of ids, without a stop token; an encoder reads the prompt, if any.

        Ids are no chat: greedy, unless the model or an option asks for something else.
        """
        self.expect(LM)
        prompt_ids = [int(i) for i in np.asarray(ids).reshape(-1)]
        prompt = Prompt(prompt_ids, None)
        if not isinstance(self.config, Decoder):
            prompt = Prompt(list(self.generation.prompt), prompt_ids)
        resolved = generate_options.resolve(self.generation, chat=False, **options)
        return list(TextStream(self, prompt, resolved).ids())

    @spelled_out(GenerateOptions)
    def translate(
        self,
        text: str,
        *,
        to: str | None = None,
        origin: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> TextStream:
        """The text in another language; see `translate.translate`."""
        return translate.translate(self, text, to, origin, **options)

    @spelled_out(GenerateOptions)
    def summarize(self, text: str, **options: Unpack[GenerateOptions]) -> TextStream:
        """A summary of the text; see `translate.summarize`."""
        return translate.summarize(self, text, **options)

    def transcribe(
        self,
        sound: Path | str | np.ndarray | Iterator[np.ndarray],
        *,
        language: str | None = None,
        task: str | None = None,
        condition: bool = False,
        limits: Limits = PAPER,
        temperatures: Sequence[float] = TEMPERATURES,
        seed: int = 0,
        words: bool = False,
        vad: bool = False,
        batch: int = 1,
        beams: int | None = None,
        best_of: int = 1,
        progress: Progress = silent,
    ) -> Iterator[Segment]:
        """The segments of a sound, a file, samples [N], or those that come, each as soon as it is known; see
        `transcribe.transcribe`."""
        from .transcribe import transcribe  # with the reading of sounds, which texts don't need

        return transcribe(
            self, sound, language=language, task=task, condition=condition, limits=limits,
            temperatures=temperatures, seed=seed, words=words, vad=vad, batch=batch, beams=beams,
            best_of=best_of, progress=progress,
        )  # fmt: skip

    def classify(
        self, texts: Texts, *, batch: int = encoder_batches.BATCH, progress: Progress = silent
    ) -> list[list[classify.Label]]:
        """Labels of each text or pair of texts, the likeliest first; see `classify.classify`."""
        return classify.classify(self, texts, batch=batch, progress=progress)

    def tag(
        self,
        texts: str | list[str],
        *,
        aggregation: Aggregation = "simple",
        outside: Sequence[str] = (tag.OUTSIDE,),
        batch: int = encoder_batches.BATCH,
        progress: Progress = silent,
    ) -> list[list[tag.Entity]]:
        """The entities of each text; see `tag.tag`."""
        return tag.tag(self, texts, aggregation=aggregation, outside=outside, batch=batch, progress=progress)

    def fill(
        self, texts: str | list[str], *, count: int = 5, batch: int = fill.BATCH, progress: Progress = silent
    ) -> list[list[list[fill.Filling]]]:
        """The `count` likeliest tokens for each mask of each text; see `fill.fill`."""
        return fill.fill(self, texts, count=count, batch=batch, progress=progress)

    def embed(
        self, texts: Texts, *, batch: int = encoder_batches.BATCH, progress: Progress = silent
    ) -> np.ndarray:
        """An embedding of each text or pair of texts, [texts, D]; see `embed.embed`."""
        return embed.embed(self, texts, batch=batch, progress=progress)

    def similarity(
        self, texts: Texts, others: Texts | None = None, *, batch: int = encoder_batches.BATCH
    ) -> np.ndarray:
        """Cosines of the embeddings of texts and others, by default themselves, [texts, others]."""
        vectors = self.embed(texts, batch=batch)
        return embed.similarity(vectors, vectors if others is None else self.embed(others, batch=batch))

    def rerank(
        self,
        query: str,
        texts: Sequence[str],
        *,
        top: int | None = None,
        batch: int = encoder_batches.BATCH,
        progress: Progress = silent,
    ) -> list[rerank.Ranked]:
        """The texts, or the `top` of them, the most relevant to the query first; see `rerank.rerank`."""
        return rerank.rerank(self, query, texts, top=top, batch=batch, progress=progress)

    def count_tokens(self, text: str | Sequence[Message]) -> int:
        """How many tokens a text has, without those that a model wants around it; of messages, as `chat`
        reads them."""
        if isinstance(text, str):
            return len(self.text.encode(text))
        return len(self.chat_template.encode(text))

    def answer(
        self,
        questions: answer.Question | list[answer.Question],
        *,
        count: int = 1,
        longest: int = 15,
        may_be_none: bool = False,
        window: int | None = None,
        stride: int | None = None,
        batch: int = encoder_batches.BATCH,
        progress: Progress = silent,
    ) -> list[list[answer.Span]]:
        """The `count` best answers to each (question, context); see `answer.answer`."""
        return answer.answer(
            self, questions, count=count, longest=longest, may_be_none=may_be_none, window=window,
            stride=stride, batch=batch, progress=progress,
        )  # fmt: skip

    def logits(self, ids: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
        """Logits [B, T, N] of ids [B, T] (or [T, N] of [T]), zeros where `mask` is zero."""
        return logits_of.logits(self, ids, mask)

    def prompt(self, text: str, *, raw: bool = False) -> list[int]:
        """Ids that ask for an answer to `text`; with `raw`, or without a template, those of the text to
        continue."""
        return generate.prompt_ids(self, text, raw=raw)

    def ask(
        self,
        text: str,
        *,
        raw: bool = False,
        system: str | None = None,
        task: str | None = None,
        tools: Sequence[Tool] | None = None,
        chat_template_kwargs: Variables | None = None,
        control_tokens: bool = False,
    ) -> Prompt:
        """The ids that the model reads of a text, and those that the answer begins with; see
        `generate.prompt_of`."""
        return generate.prompt_of(
            self,
            text,
            raw=raw,
            system=system,
            task=task,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
            control_tokens=control_tokens,
        )

    @spelled_out(GenerateOptions)
    def options(
        self, *, raw: bool = False, task: str | None = None, **options: Unpack[GenerateOptions]
    ) -> Options:
        """Options on top of the model's own, as `generate` resolves them; see `options.resolve`."""
        chat = generate.is_chat(self, raw=raw)
        return generate_options.resolve(generate.generation_of(self, task), chat=chat, **options)

    @spelled_out(SamplingOptions)
    def sampler(self, **options: Unpack[SamplingOptions]) -> Sampler:
        """A Sampler of options on top of this model's defaults; see `options.sampler`."""
        return generate_options.sampler(self.generation.defaults, **options)

    def drafter(self, other: TaskModel) -> DraftModel:
        """Another model as a source of drafts for this one; it must have the same tokens."""
        vocabularies = [None if m.tokenizer is None else m.tokenizer.get_vocab() for m in (self, other)]
        if vocabularies[0] != vocabularies[1]:
            raise LimitError("a draft model must have the model's own tokenizer")
        return DraftModel(other.engine, self.engine)

    def mtp_drafter(self) -> MTPDrafter:
        """The model's own module as a source of drafts for it; ConfigError where the bundle has none."""
        if not isinstance(self.engine, MTPEngine):
            raise LimitError("this engine can't run a module for drafts (mtp)")
        return MTPDrafter(self.engine)

    def start(
        self,
        batch: int = 1,
        encoder_ids: np.ndarray | None = None,
        encoder_lengths: np.ndarray | None = None,
    ) -> Cache:
        """An empty cache, as `refimpl.engine.protocol` defines it."""
        return self.engine.start(batch, encoder_ids, encoder_lengths)

    def step(
        self,
        tokens: np.ndarray,
        cache: Cache,
        lengths: np.ndarray | None = None,
        at: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Cache]:
        """Logits and the new cache, as `refimpl.engine.protocol` defines it."""
        return self.engine.step(tokens, cache, lengths, at)


def load(
    path: Path | str,
    device: str = "cpu",
    threads: int | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Model:
    """The model of a bundle; its files' hashes are checked while the session starts, unless they were before
    (`hub.checked_bundles`).

    `notify` gets lines for a person, as of a first start that takes longer.
    """
    bundle = open_bundle(Path(path))
    if bundle.code_replaced_by:
        notify(describe(bundle.code_replaced_by))
    for note in bundle.generation.notes:
        notify(note)
    checked = checking(bundle)
    try:
        if bundle.chat_template is not None:
            SHARED.start()  # it is ready before the session is
        # The tokenizer first: the session uses the memory again that reading it frees.
        tokenizer = read_tokenizer(bundle, bundle.config)
        kernels = "" if device == "cuda" else kernel_backend.choose(bundle, notify)
        over = None if isinstance(kernels, str) else kernels
        engine = OrtEngine(bundle, device, threads, notify, prepack=True, kernels=over)
        model = Model(engine, bundle, tokenizer, engine.same_bits, bundle.path.name)
    except TfmError:
        checked()  # a damaged file explains it better
        raise
    checked()
    trim()  # reading a tokenizer takes twice the memory that it keeps
    return model
