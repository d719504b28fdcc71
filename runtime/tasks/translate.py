"""A text in another language, as the model itself names languages."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...refimpl.errors import ConfigError, LimitError

if TYPE_CHECKING:
    from .generation import Answer, Asked
    from .model import Model


def translate(model: Model, text: str, to: str | None, origin: str | None, **given: Any) -> Answer:
    """The text in the language `to`, out of `origin`.

    A checkpoint with tasks of that kind (T5) has languages as it writes them, and its task's prefix and
    options are taken: translation_en_to_de is "en" and "de". One with a token for each language (mBART) has
    their names, de_DE: the token of `origin` stands where the tokenizer puts one around the text, and that of
    `to` comes first in the answer. A model of one pair of languages (Marian) takes no names.
    """
    reads(model, "translate")
    named = [task for task in model.generation.tasks if task.startswith("translation_")]
    if named:
        task = f"translation_{origin}_to_{to}"
        if task not in named:
            raise LimitError(f"the model names {', '.join(named)}, asked was from {origin} to {to}")
        return model.generate(text, task=task, **given)
    asked, options = model.ask(text), model.options(**given)
    if origin is not None:
        asked = _from(model, asked, language(model, origin))
    if to is not None:
        forced = (language(model, to),)
        options = replace(options, sampler=replace(options.sampler, forced_tokens=forced))
    return model.write(asked, options)


def reads(model: Model, what: str) -> None:
    """ConfigError unless the model reads a text with an encoder and writes another."""
    if model.config.encoder is None or model.config.decoder is None:
        raise ConfigError(f"only a model with an encoder and a decoder can {what}: this one can't")


def language(model: Model, name: str) -> int:
    """The id of a language's token; LimitError for what is no control token of the tokenizer."""
    number = model.text.control.get(name)
    if number is None:
        raise LimitError(f"the model must have a token for the language, as de_DE is one, got {name!r:.40}")
    return number


def _from(model: Model, asked: Asked, number: int) -> Asked:
    """The same with another language's token in place of the one that the tokenizer puts around a text."""
    ends = {*model.generation.eos, model.generation.bos}
    source = list(asked.source or ())
    places = [
        i for i in (0, len(source) - 1) if source[i] in model.text.control.values() and source[i] not in ends
    ]
    if len(set(places)) != 1:
        raise LimitError(
            "the tokenizer puts no token of a language around a text: leave out the language it is in"
        )
    source[places[0]] = number
    return asked._replace(source=source)
