"""What every task needs of a model: its engine, its tokenizer, and the statements of its checkpoint."""

from __future__ import annotations

from functools import cached_property
from typing import TypeVar

from ...refimpl import config as configs
from ...refimpl.checkpoint.generation_config import Generation
from ...refimpl.checkpoint.protocol import ModelSource
from ...refimpl.config import LM, Config, EncoderDecoder
from ...refimpl.engine.cache_kinds import cache_kinds, recurrent
from ...refimpl.engine.protocol import Engine
from ...refimpl.errors import CheckpointError, ConfigError
from ..bundle.same_bits import SameBits
from ..text.chat_template import ChatTemplate
from ..text.constraints import Constraints
from ..text.tokenizer import Tokenizer, read_tokenizer
from .timed_engine import TimedEngine

# The task of each head; its name is that of the method of `Model` and of the command.
TASKS: dict[type[configs.Head], str] = {
    configs.LM: "generate",
    configs.MaskedLM: "fill",
    configs.Classify: "classify",
    configs.Tag: "tag",
    configs.QuestionAnswering: "answer",
    configs.Pool: "embed",
    configs.CTC: "transcribe",
}
HEADS = {task: head for head, task in TASKS.items()}

H = TypeVar("H", bound=configs.Head)


def task_of(config: Config) -> str:
    """The task that a model is for."""
    return TASKS[type(config.head)] if config.frames is None else "transcribe"


def expect_head(config: Config, kind: type[H]) -> H:
    """The head of a model of text; ConfigError unless it is of this kind, with the task that it is for."""
    head = config.head
    if config.frames is not None or not isinstance(head, kind):
        can = task_of(config)
        raise ConfigError(f"this model can {can}, not {TASKS[kind]}: use {can}, or name another model")
    return head


def expect_hearing(config: Config) -> None:
    """ConfigError unless the model reads sounds."""
    if config.frames is None:
        raise ConfigError(f"this model can {task_of(config)}, not transcribe: name one that hears")


def head_of(task: str) -> type[configs.Head]:
    """The head that a task needs: one of `TASKS`, or chat, translate, summarize, which write texts."""
    return HEADS.get(task, LM)


def expect_both(config: Config, task: str) -> None:
    """ConfigError unless the model has an encoder, and a decoder that writes."""
    reads = config.frames is None and isinstance(config, EncoderDecoder)
    if not (reads and isinstance(config.head, LM)):
        raise ConfigError(
            f"this model can {task_of(config)}, not {task}: name one with an encoder and a decoder"
        )


def expect_mask(generation: Generation) -> int:
    """The id of the mask token; CheckpointError where the model states none."""
    if generation.mask is None:
        raise CheckpointError("the model doesn't say which token is the mask: tokenizer_config.json names it")
    return generation.mask


def expect_template(source: ModelSource) -> str:
    """The chat template; CheckpointError where the model has none."""
    if source.chat_template is None:
        raise no_template()
    return source.chat_template


def no_template() -> CheckpointError:
    """The error for a model without a chat template, with what to do."""
    return CheckpointError(
        "the model has no chat template: put its repository's chat_template.jinja beside its weights, "
        "or use generate, which continues a text"
    )


def no_tokenizer() -> CheckpointError:
    """The error for a model without a tokenizer, with what to do."""
    return CheckpointError(
        "the model has no tokenizer.json, so it takes and gives token ids only: put the file beside its "
        "weights (AutoTokenizer of transformers writes it with save_pretrained)"
    )


def check_task(task: str, config: Config, source: ModelSource) -> None:
    """Raise what the task would raise at its begin, before there is an engine for the model.

    `task` is a command: one of `TASKS`, chat, translate or summarize. Raises ConfigError for a model with
    another head, CheckpointError where its files lack what the task needs.
    """
    if task in ("translate", "summarize"):
        expect_both(config, task)
    elif task == "transcribe":
        expect_hearing(config)
    else:
        expect_head(config, head_of(task))
    if source.tokenizer is None:
        raise no_tokenizer()
    if task == "fill":
        expect_mask(source.generation)
    if task == "chat":
        expect_template(source)


class TaskModel:
    """An engine with the tokenizer, the chat template and the labels of its model.

    The tokenizer of `source` is read unless it is passed in. `same_bits` is what the engine promises, `name`
    what its user calls it.
    """

    def __init__(
        self,
        engine: Engine,
        source: ModelSource,
        tokenizer: Tokenizer | None = None,
        same_bits: SameBits = SameBits("its engine doesn't say so"),  # noqa: B008 (it can't be changed)
        name: str = "",
    ) -> None:
        self.engine = engine
        self.name = name
        self.same_bits = same_bits
        # Where drafts change no bit and can be taken back, they are made by default, on this engine.
        self.drafting: TimedEngine | None = None
        if same_bits and not recurrent(cache_kinds(engine.config)):
            self.drafting = TimedEngine(engine)
        self.generation = source.generation
        self.labels = source.labels
        self.tokenizer = tokenizer or read_tokenizer(source, engine.config)
        self.template: ChatTemplate | None = None
        if self.tokenizer is not None and source.chat_template is not None:
            bos, eos = source.generation.bos, source.generation.eos
            self.template = ChatTemplate(
                source.chat_template, self.tokenizer, tool_use=source.tool_use_template, bos=bos, eos=eos
            )

    @property
    def config(self) -> Config:
        return self.engine.config

    @property
    def context(self) -> int:
        """The most tokens of a text."""
        return self.config.context

    @property
    def text(self) -> Tokenizer:
        """The tokenizer; CheckpointError where the model has none."""
        if self.tokenizer is None:
            raise no_tokenizer()
        return self.tokenizer

    @property
    def chat_template(self) -> ChatTemplate:
        """The chat template; ConfigError for a model of another task, CheckpointError for one without any."""
        if self.template is None:
            self.expect(configs.LM)
            raise no_template()
        return self.template

    @cached_property
    def constraints(self) -> Constraints:
        """What holds a text to a language, such as the documents of a JSON schema."""
        return Constraints(self.text, self.generation.eos)

    def expect(self, kind: type[H]) -> H:
        """The model's head; ConfigError unless it is of this kind, with the task that it is for."""
        return expect_head(self.config, kind)
