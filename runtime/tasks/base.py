"""What every task needs of a model: its engine, its tokenizer, and the statements of its checkpoint."""

from __future__ import annotations

from typing import TypeVar

from ...refimpl import config as configs
from ...refimpl.checkpoint.protocol import ModelSource
from ...refimpl.config import Config
from ...refimpl.engine.protocol import Engine
from ...refimpl.errors import CheckpointError, ConfigError
from ..text.chat_template import ChatTemplate
from ..text.tokenizer import Tokenizer

# The task of each head; its name is that of the method of `Model` and of the command.
TASKS: dict[type[configs.Head], str] = {
    configs.LM: "generate",
    configs.MaskedLM: "fill",
    configs.Classify: "classify",
    configs.Tag: "tag",
    configs.QuestionAnswering: "answer",
    configs.Pool: "embed",
}

H = TypeVar("H", bound=configs.Head)


def read_tokenizer(source: ModelSource, config: Config) -> Tokenizer | None:
    """The tokenizer of a bundle or checkpoint, if it has one."""
    if source.tokenizer is None:
        return None
    return Tokenizer(source.tokenizer, config.embedding.vocabulary)


class TaskModel:
    """An engine with the tokenizer, the chat template and the labels of its model.

    The tokenizer of `source` is read unless it is passed in.
    """

    def __init__(self, engine: Engine, source: ModelSource, tokenizer: Tokenizer | None = None) -> None:
        self.engine = engine
        self.generation = source.generation
        self.labels = source.labels
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
        """The tokenizer; CheckpointError where the model has none."""
        if self.tokenizer is None:
            raise CheckpointError("the model has no tokenizer.json, so it takes and gives token ids only")
        return self.tokenizer

    def expect(self, kind: type[H]) -> H:
        """The model's head; ConfigError unless it is of this kind, with the task that it is for."""
        head = self.config.head
        if not isinstance(head, kind):
            raise ConfigError(
                f"this model can't {TASKS[kind]}, its head is for {TASKS[type(head)]}: use that"
            )
        return head
