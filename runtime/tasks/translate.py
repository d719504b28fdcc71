"""A text in another language, as the model itself names languages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...refimpl.checkpoint.languages import directed
from ...refimpl.errors import ConfigError, LimitError
from .generate import Prompt, TextStream, options

if TYPE_CHECKING:
    from .model import Model


def translate(model: Model, text: str, to: str | None, origin: str | None, **given: Any) -> TextStream:
    """The text in the language `to`, out of `origin`.

    A checkpoint with tasks of that kind (T5) has languages as it writes them, and its task's prefix and
    options are taken: translation_en_to_de is "en" and "de". One with tokens of them (mBART, Marian) has
    their names: `refimpl.checkpoint.languages.directed` says where they go. A model of one pair takes no names.
    """
    reads(model, "translate")
    named = [task for task in model.generation.tasks if task.startswith("translation_")]
    if named:
        task = f"translation_{origin}_to_{to}"
        if task not in named:
            raise LimitError(f"the model names {', '.join(named)}, asked was from {origin} to {to}")
        return model.generate(text, task=task, **given)
    rules, source = directed(model.generation, model.ask(text).source or (), origin, to)
    return model.write(Prompt(list(rules.prompt), source), options(rules, **given))


def reads(model: Model, what: str) -> None:
    """ConfigError unless the model reads a text with an encoder and writes another."""
    if model.config.encoder is None or model.config.decoder is None:
        raise ConfigError(f"only a model with an encoder and a decoder can {what}: this one can't")
