"""A model as its users have it: an engine with its tokenizer and template, and a method for each task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...refimpl import config as configs
from ...refimpl.checkpoint.generation_config import Generation
from ...refimpl.config import Config
from ...refimpl.decoding.loop import CHUNK
from ...refimpl.decoding.sampler import Sampler
from ...refimpl.decoding.speculative import DraftModel
from ...refimpl.engine.protocol import Engine
from ...refimpl.errors import CheckpointError, ConfigError, LimitError, TfmError
from ..bundle.bundle import open_bundle
from ..ort.engine import OrtEngine
from ..text.chat_template import ChatTemplate
from ..text.tokenizer import Tokenizer
from . import answer, classify, embed, fill, generate_batch, tag, translate
from .encoder_batches import Progress, Texts, silent
from .generate import Options, Prompt, TextStream, options, sampler

# The method and the command for each head.
METHODS = {
    configs.LM: "generate",
    configs.MaskedLM: "fill",
    configs.Classify: "classify",
    configs.Tag: "tag",
    configs.QuestionAnswering: "answer",
    configs.Pool: "embed",
}
H = TypeVar("H", bound=configs.Head)


def read_tokenizer(source: Any, config: Config) -> Tokenizer | None:
    """The tokenizer of a bundle or checkpoint, if it has one."""
    return None if source.tokenizer is None else Tokenizer(source.tokenizer, config.embedding.vocabulary)


class Model:
    """An engine with the tokenizer, the template and the labels of its model."""

    def __init__(self, engine: Engine, source: Any, tokenizer: Tokenizer | None = None) -> None:
        self.engine, self.generation, self.labels = engine, source.generation, source.labels
        self.tokenizer = tokenizer or read_tokenizer(source, engine.config)
        self.template: ChatTemplate | None = None
        if self.tokenizer is not None and source.chat_template is not None:
            bos, eos = source.generation.bos, source.generation.eos
            self.template = ChatTemplate(source.chat_template, self.tokenizer, bos=bos, eos=eos)

    @property
    def config(self) -> Config:
        return self.engine.config

    @property
    def text(self) -> Tokenizer:
        """The tokenizer, by those who can't do without."""
        if self.tokenizer is None:
            raise CheckpointError("the model has no tokenizer.json, so it takes and gives token ids only")
        return self.tokenizer

    def expect(self, kind: type[H]) -> H:
        """The model's head; ConfigError with the method that it is for, unless it is of this kind."""
        head = self.config.head
        if not isinstance(head, kind):
            raise ConfigError(
                f"this model can't {METHODS[kind]}, its head is for {METHODS[type(head)]}: use that"
            )
        return head

    def start(
        self,
        batch: int = 1,
        encoder_ids: np.ndarray | None = None,
        encoder_lengths: np.ndarray | None = None,
    ) -> Any:
        """An empty cache, as `refimpl.engine.protocol` defines it."""
        return self.engine.start(batch, encoder_ids, encoder_lengths)

    def step(
        self, tokens: np.ndarray, cache: Any, lengths: Any = None, at: Any = None
    ) -> tuple[np.ndarray, Any]:
        """Logits and the new cache, as `refimpl.engine.protocol` defines it."""
        return self.engine.step(tokens, cache, lengths, at)

    def prompt(self, text: str, *, raw: bool = False) -> list[int]:
        """Ids that ask for an answer to `text`; `raw`, or without a template: that `text` goes on."""
        if raw or self.template is None:
            return self.text.encode(text, start=True)
        return self.template.encode([{"role": "user", "content": text}])

    def sampler(self, **given: Any) -> Sampler:
        """A Sampler from options over this model's defaults; see `sampler`."""
        return sampler(self.generation.defaults, **given)

    def generate(self, text: str, *, raw: bool = False, task: str | None = None, **given: Any) -> TextStream:
        """Pieces of text as they become certain; `given` are fields of Options and of Sampler.

        `task` is one that the checkpoint names, with its own prefix and options.
        """
        return self.write(self.ask(text, raw=raw, task=task), self.options(task=task, **given))

    def ask(self, text: str, *, raw: bool = False, task: str | None = None) -> Prompt:
        """What the model reads of a text, and what the answer begins with."""
        self.expect(configs.LM)
        if self.config.encoder is None:
            return Prompt(self.prompt(text, raw=raw), None)
        source = self.text.encode(("" if raw else self.wants(task).prefix) + text, start=True)
        return Prompt(list(self.generation.prompt), source)

    def write(self, asked: Prompt, options: Options) -> TextStream:
        """The answer to what was asked."""
        return TextStream(self, asked.prompt, options, source=asked.source)

    def wants(self, task: str | None = None) -> Generation:
        """How the checkpoint wants to be run, for one of its tasks by name, or as a rule."""
        if task is None:
            return self.generation
        if task not in self.generation.tasks:
            known = ", ".join(self.generation.tasks) or "none"
            raise LimitError(f"the model names the tasks {known}, got {task!r:.60}")
        return self.generation.tasks[task]

    def translate(
        self, text: str, *, to: str | None = None, origin: str | None = None, **given: Any
    ) -> TextStream:
        """A text in another language; see `tasks.translate`."""
        return translate.translate(self, text, to, origin, **given)

    def summarize(self, text: str, **given: Any) -> TextStream:
        """A text made short: by the task of that name where the checkpoint has one, else as it writes."""
        translate.reads(self, "summarize")
        return self.generate(text, task="summarization" if self.generation.tasks else None, **given)

    def generate_ids(self, ids: Sequence[int], **given: Any) -> list[int]:
        """The new ids after a prompt of ids, or, with an encoder, after it has read them; a stop token
        isn't among them."""
        self.expect(configs.LM)
        read = [int(i) for i in np.asarray(ids).reshape(-1)]
        asked = (
            Prompt(read, None) if self.config.encoder is None else Prompt(list(self.generation.prompt), read)
        )
        return list(self.write(asked, options(self.generation, **given)).ids())

    def generate_many(
        self,
        prompts: Sequence[str],
        *,
        raw: bool = False,
        task: str | None = None,
        batch: int = generate_batch.BATCH,
        progress: Progress = silent,
        **given: Any,
    ) -> list[generate_batch.Completion]:
        """The answers to many prompts, each as `generate` would give it with the random numbers of (seed, its
        place); see `tasks.many`."""
        asked = [self.ask(text, raw=raw, task=task) for text in prompts]
        how = self.options(task=task, **given)
        return generate_batch.generate_many(self, asked, how, batch=batch, progress=progress)

    def options(self, task: str | None = None, **given: Any) -> Options:
        """`options` over this model's defaults."""
        return options(self.wants(task), **given)

    def drafter(self, other: Model) -> DraftModel:
        """Another model as a source of drafts for this one; its tokens must be the same."""
        mine, theirs = (None if m.tokenizer is None else m.tokenizer.tokens() for m in (self, other))
        if mine != theirs:
            raise LimitError("a draft model must have the model's own tokenizer")
        return DraftModel(other.engine, self.engine)

    def logits(self, ids: Any, mask: Any = None) -> np.ndarray:
        """Logits [B, T, N] of ids [B, T] (or [T, N] of [T]), zeros where `mask` is zero.

        Masked tokens are as if they weren't there: on the left, on the right or in between.
        """
        given = np.asarray(ids, np.int64)
        tokens = np.atleast_2d(given)
        real = np.ones(tokens.shape, bool) if mask is None else np.atleast_2d(np.asarray(mask)) != 0
        if tokens.ndim != 2 or real.shape != tokens.shape or not tokens.size:
            raise LimitError(
                f"ids must be [T] or [B, T] with T ≥ 1, the mask alike, got {tokens.shape} and {real.shape}"
            )
        # Real tokens first, in their order: a stable sort of "isn't real".
        order = np.argsort(~real, axis=1, kind="stable")
        packed, lengths = np.take_along_axis(tokens, order, 1), real.sum(1)
        made = np.zeros((*tokens.shape, self.config.embedding.vocabulary), np.float32)
        cache = self.start(len(tokens))
        for begin in range(0, int(lengths.max(initial=0)), CHUNK):
            part = packed[:, begin : begin + CHUNK]
            t = part.shape[1]
            at = np.broadcast_to(np.arange(t), part.shape)
            here = np.clip(lengths - begin, 0, t)
            logits, cache = self.step(part, cache, here, at)
            for row, length in enumerate(here):
                made[row, order[row, begin : begin + length]] = logits[row, :length]
        return made.reshape(*given.shape, -1)

    def classify(self, texts: Texts, **given: Any) -> list[list[classify.Label]]:
        """Labels of each text or pair; see `tasks.classify`."""
        return classify.classify(self, texts, **given)

    def tag(self, texts: str | list[str], **given: Any) -> list[list[tag.Entity]]:
        """Entities of each text; see `tasks.tag`."""
        return tag.tag(self, texts, **given)

    def fill(self, texts: str | list[str], **given: Any) -> list[list[list[fill.Filling]]]:
        """What may stand for each mask of each text; see `tasks.fill`."""
        return fill.fill(self, texts, **given)

    def embed(self, texts: Texts, **given: Any) -> np.ndarray:
        """A vector for each text or pair; see `tasks.embed`."""
        return embed.embed(self, texts, **given)

    def answer(self, asked: tuple[str, str] | list[tuple[str, str]], **given: Any) -> list[list[answer.Span]]:
        """The answers to each (question, context); see `tasks.answer`."""
        return answer.answer(self, asked, **given)


def load(
    path: Path | str,
    device: str = "cpu",
    threads: int | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Model:
    """The model of a bundle, its files' hashes checked beside the start of the session."""
    bundle = open_bundle(Path(path))
    checked = bundle.checking()
    try:
        # The tokenizer first: what reading it frees is used again by the session.
        tokenizer = read_tokenizer(bundle, bundle.config)
        model = Model(OrtEngine(bundle, device, threads, notify, prepack=True), bundle, tokenizer)
    except TfmError:
        checked()  # a damaged file is the better explanation
        raise
    checked()
    return model
