"""The public `Model`: an engine with its tokenizer and chat template, and a method for each task."""

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
    from .transcribe import OnAttention


class ClosedEngine:
    """An object that replaces the engine of a closed model. Any use of it raises ArgumentError."""

    def __getattr__(self, name: str) -> Any:
        raise ArgumentError("the model was closed: load it again")


class Model(TaskModel):
    """A model with a method for each task. A method raises ConfigError if the model's head can't do the task.

    Methods that generate text take options as keywords, and `help()` of such a method lists them all. A
    `with` block closes the model at its end.
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
        """Free the memory of the weights. Afterwards any computation raises ArgumentError."""
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
        """Return the answer to a text as a stream: iterate over it to get the parts of the text.

        - `system`: a message that a chat model reads first.
        - `raw`: don't use the chat template, so that the model continues the text.
        - `task`: a task that the checkpoint defines, with its own prefix and options.
        - `prefix`: a file with the cache of a text that begins like this one. If the file doesn't exist, it
          is written (`generate.prefix_cache`).
        - `chat_template_kwargs`: variables of the chat template.
        - `control_tokens`: convert names of control tokens in a raw text to these tokens.
        - `tools`: as in `chat`.
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
        """Return the model's next message in a conversation as a stream; see `generate.chat`.

        A message is a dict such as `{"role": "user", "content": "hi"}`. The roles are system, developer,
        user, assistant and tool. A `str` in place of the list is one message of the user. Each call reads all
        messages again. A `Conversation` keeps the cache of the messages that the model has already read.
        `chat_template_kwargs` are variables of the chat template, such as `{"enable_thinking": False}`. With
        `tools`, the stream's `answer` has the model's thoughts, text and calls.
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
        """Return the answers to many texts, computed `batch` at a time; see `generate_batch.generate_many`.

        Each text gets the answer that `generate` would return, except for rounding. The random numbers for a
        text come from `seed` and the text's number in `numbers`, which is by default the text's index. With
        `tools`, each completion has an `answer` with thoughts, text and calls.
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
        """Return the ids that the model generates after a prompt of ids, without a stop token.

        If the model has an encoder, the encoder reads the prompt. A prompt of ids isn't treated as a chat, so
        decoding is greedy unless the model or an option asks for sampling or beams.
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
        """Return the text's translation into another language; see `translate.translate`."""
        return translate.translate(self, text, to, origin, **options)

    @spelled_out(GenerateOptions)
    def summarize(self, text: str, **options: Unpack[GenerateOptions]) -> TextStream:
        """Return a summary of the text; see `translate.summarize`."""
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
        on_attention: OnAttention | None = None,
        progress: Progress = silent,
    ) -> Iterator[Segment]:
        """Transcribe a sound: yield its segments, each as soon as it is known; see `transcribe.transcribe`.

        The sound is a file, samples [N], or an iterator that gives samples as they come.
        """
        from .transcribe import transcribe  # with the reading of sounds, which texts don't need

        return transcribe(
            self, sound, language=language, task=task, condition=condition, limits=limits,
            temperatures=temperatures, seed=seed, words=words, vad=vad, batch=batch, beams=beams,
            best_of=best_of, on_attention=on_attention, progress=progress,
        )  # fmt: skip

    def classify(
        self, texts: Texts, *, batch: int = encoder_batches.BATCH, progress: Progress = silent
    ) -> list[list[classify.Label]]:
        """Return the labels of each text or pair of texts, the likeliest first; see `classify.classify`."""
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
        """Return the entities of each text; see `tag.tag`."""
        return tag.tag(self, texts, aggregation=aggregation, outside=outside, batch=batch, progress=progress)

    def fill(
        self, texts: str | list[str], *, count: int = 5, batch: int = fill.BATCH, progress: Progress = silent
    ) -> list[list[list[fill.Filling]]]:
        """Return the `count` likeliest tokens for each mask of each text; see `fill.fill`."""
        return fill.fill(self, texts, count=count, batch=batch, progress=progress)

    def embed(
        self, texts: Texts, *, batch: int = encoder_batches.BATCH, progress: Progress = silent
    ) -> np.ndarray:
        """Return an embedding of each text or pair of texts, [texts, D]; see `embed.embed`."""
        return embed.embed(self, texts, batch=batch, progress=progress)

    def similarity(
        self, texts: Texts, others: Texts | None = None, *, batch: int = encoder_batches.BATCH
    ) -> np.ndarray:
        """Return the cosine similarities [texts, others] of the embeddings of `texts` and `others`.

        Without `others`, the texts are compared with each other.
        """
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
        """Return the texts, the most relevant to the query first; see `rerank.rerank`.

        With `top`, only the `top` most relevant texts are returned.
        """
        return rerank.rerank(self, query, texts, top=top, batch=batch, progress=progress)

    def count_tokens(self, text: str | Sequence[Message]) -> int:
        """Return the number of tokens of a text, or of messages.

        A text is counted without the special tokens that are added around it. Messages are counted as `chat`
        formats them, with the chat template.
        """
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
        """Return the `count` best answers to each (question, context); see `answer.answer`."""
        return answer.answer(
            self, questions, count=count, longest=longest, may_be_none=may_be_none, window=window,
            stride=stride, batch=batch, progress=progress,
        )  # fmt: skip

    def logits(self, ids: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
        """Return logits [B, T, N] of ids [B, T], or [T, N] of [T]. Where `mask` is 0, the logits are 0.

        See `logits.logits`.
        """
        return logits_of.logits(self, ids, mask)

    def prompt(self, text: str, *, raw: bool = False) -> list[int]:
        """Return the ids of the prompt that makes the model answer `text`.

        With `raw`, or if the model has no chat template, the prompt is the text itself, which the model
        continues.
        """
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
        """Return the prompt for a text: the ids that the answer continues, and the ids that an encoder reads.

        See `generate.prompt_of`.
        """
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
        """Return the given options combined with the model's own, as `generate` uses them.

        See `options.resolve`.
        """
        chat = generate.is_chat(self, raw=raw)
        return generate_options.resolve(generate.generation_of(self, task), chat=chat, **options)

    @spelled_out(SamplingOptions)
    def sampler(self, **options: Unpack[SamplingOptions]) -> Sampler:
        """Return a Sampler with the given options. All other options have the model's defaults.

        See `options.sampler`.
        """
        return generate_options.sampler(self.generation.defaults, **options)

    def drafter(self, other: TaskModel) -> DraftModel:
        """Return a drafter for speculative decoding: `other` guesses tokens, and this model checks the
        tokens.

        Raises LimitError unless both models have the same vocabulary.
        """
        vocabularies = [None if m.tokenizer is None else m.tokenizer.get_vocab() for m in (self, other)]
        if vocabularies[0] != vocabularies[1]:
            raise LimitError("a draft model must have the same tokenizer as the model that checks its tokens")
        return DraftModel(other.engine, self.engine)

    def mtp_drafter(self) -> MTPDrafter:
        """Return a drafter for speculative decoding that guesses tokens with the model's own MTP module
        (multi-token prediction).

        Raises ConfigError if the bundle has no MTP module, and LimitError if the engine can't run the
        module.
        """
        if not isinstance(self.engine, MTPEngine):
            raise LimitError(
                "mtp_drafter() needs the engine onnx or numpy, because other engines don't run the mtp module"
            )
        return MTPDrafter(self.engine)

    def start(
        self,
        batch: int = 1,
        encoder_ids: np.ndarray | None = None,
        encoder_lengths: np.ndarray | None = None,
    ) -> Cache:
        """Return an empty cache, as `refimpl.engine.protocol` defines it."""
        return self.engine.start(batch, encoder_ids, encoder_lengths)

    def step(
        self,
        tokens: np.ndarray,
        cache: Cache,
        lengths: np.ndarray | None = None,
        at: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Cache]:
        """Return the logits and the new cache, as `refimpl.engine.protocol` defines them."""
        return self.engine.step(tokens, cache, lengths, at)


def load(
    path: Path | str,
    device: str = "cpu",
    threads: int | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Model:
    """Load the bundle at `path`, and return its model.

    The hashes of the bundle's files are checked while the session starts, unless they were checked before
    (`hub.checked_bundles`). `notify` is called with messages for the user, for example that the first start
    takes longer.
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
