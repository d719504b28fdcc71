"""The parts of a model that every task needs: its engine, its tokenizer, and the settings of its
checkpoint.
"""

from __future__ import annotations

from functools import cached_property
from typing import TypeVar

from ...refimpl import config as configs
from ...refimpl.checkpoint.generation_config import Generation
from ...refimpl.checkpoint.protocol import ModelSource
from ...refimpl.config import LM, Config, Decoder, EncoderDecoder
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
    """Return the name of the task that a model is made for."""
    return TASKS[type(config.head)] if config.sound_shape is None else "transcribe"


def expect_head(config: Config, kind: type[H]) -> H:
    """Return the head of a model that reads text.

    Raises ConfigError unless the head is an instance of `kind`. The error names the task that the model is
    made for.
    """
    head = config.head
    if config.sound_shape is not None or not isinstance(head, kind):
        can = task_of(config)
        raise ConfigError(f"this model can {can}, not {TASKS[kind]}: use {can}, or another model")
    return head


def expect_hearing(config: Config) -> None:
    """Raise ConfigError unless the model takes sounds as input."""
    if config.sound_shape is None:
        raise ConfigError(f"this model can {task_of(config)}, not transcribe: use a model that reads sounds")


def head_of(task: str) -> type[configs.Head]:
    """Return the class of head that a task needs.

    `task` is one of the names in `TASKS`, or one of chat, translate and summarize, which generate text.
    """
    return HEADS.get(task, LM)


def expect_both(config: Config, task: str) -> None:
    """Raise ConfigError unless the model has an encoder that reads text and a decoder that generates text."""
    reads = config.sound_shape is None and isinstance(config, EncoderDecoder)
    if not (reads and isinstance(config.head, LM)):
        raise ConfigError(
            f"this model can {task_of(config)}, not {task}: use a model with an encoder and a decoder"
        )


def expect_mask(generation: Generation) -> int:
    """Return the id of the mask token. Raises CheckpointError if the model's files name none."""
    if generation.mask is None:
        raise CheckpointError(
            "the model has no mask token: tokenizer_config.json must have the key mask_token"
        )
    return generation.mask


def expect_template(source: ModelSource) -> str:
    """Return the chat template. Raises CheckpointError if the model has none."""
    if source.chat_template is None:
        raise no_template()
    return source.chat_template


def no_template() -> CheckpointError:
    """Return the error for a model without a chat template. Its message says what to do."""
    return CheckpointError(
        "the model has no chat template: put chat_template.jinja from the model's repository beside the "
        "weights, or use generate, which continues a text"
    )


def no_tokenizer() -> CheckpointError:
    """Return the error for a model without a tokenizer. Its message says what to do."""
    return CheckpointError(
        "the model has no tokenizer.json, so it reads and writes only token ids: put the file beside the "
        "weights (save_pretrained of transformers' AutoTokenizer writes the file)"
    )


def check_task(task: str, config: Config, source: ModelSource) -> None:
    """Check that a model can do a task, before an engine is made for the model.

    `task` is a command: one of `TASKS`, chat, translate or summarize. Raises the errors that the task itself
    would raise at its start: ConfigError for a model with another head, and CheckpointError if the model's
    files lack something that the task needs.
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

    The tokenizer is read from `source` unless it is passed in. `same_bits` says whether the engine promises
    the same bits (`runtime.bundle.same_bits`). `name` is the name that the user gives the model.
    """

    def __init__(
        self,
        engine: Engine,
        source: ModelSource,
        tokenizer: Tokenizer | None = None,
        same_bits: SameBits = SameBits("the engine doesn't promise the same bits"),  # noqa: B008 (it can't be changed)
        name: str = "",
    ) -> None:
        self.engine = engine
        self.name = name
        self.same_bits = same_bits
        # Where drafts change no bit and can be taken back, decoders make them by default, on this engine.
        self.drafting: TimedEngine | None = None
        decodes = isinstance(engine.config, Decoder) and not recurrent(cache_kinds(engine.config))
        if same_bits and decodes:
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
        """The largest number of tokens that a text may have."""
        return self.config.context

    @property
    def text(self) -> Tokenizer:
        """The tokenizer. Raises CheckpointError if the model has none."""
        if self.tokenizer is None:
            raise no_tokenizer()
        return self.tokenizer

    @property
    def chat_template(self) -> ChatTemplate:
        """The chat template.

        Raises ConfigError if the model's head doesn't generate text, and CheckpointError if the model has no
        chat template.
        """
        if self.template is None:
            self.expect(configs.LM)
            raise no_template()
        return self.template

    @cached_property
    def constraints(self) -> Constraints:
        """The factory of constraints for this model. A constraint makes a generated text follow a formal
        language, for example the documents of a JSON schema.
        """
        return Constraints(self.text, self.generation.eos)

    def expect(self, kind: type[H]) -> H:
        """Return the model's head.

        Raises ConfigError unless the head is an instance of `kind`. The error names the task that the model
        is made for.
        """
        return expect_head(self.config, kind)
