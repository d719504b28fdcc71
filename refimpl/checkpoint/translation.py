"""Prepare a text for translation, and the generation settings of the translation model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import LimitError
from .generation_config import Generation


def directed(
    generation: Generation, ids: Sequence[int], source: str | None = None, target: str | None = None
) -> tuple[Generation, list[int]]:
    """Return the generation settings for a translation into `target`, and the source text's ids with language
    tokens.

    If a language isn't given, the checkpoint's own setting is used. Raises LimitError for a language that the
    model doesn't know, or that can't be chosen.
    """
    languages = generation.languages
    text = [*ids]
    if languages is None:
        if source is None and target is None:
            return generation, text
        raise LimitError(f"this model has no language tokens: remove the language {source or target!r:.40}")
    if source is not None:
        token = languages.token(source)
        tokens = set(languages.codes.values())
        if languages.place == "text" or not tokens & set(text):
            raise LimitError(
                "for this model, only the language of the translation can be set: remove the language of the "
                f"text, {source!r:.40}"
            )
        text = [token if one in tokens else one for one in text]
    if target is not None:
        token = languages.token(target)
        match languages.place:
            case "text":
                text = [token, *text]
            case "start":
                generation = replace(generation, start=token)
            case "first":
                generation = replace(generation, defaults=generation.defaults | {"forced_tokens": [token]})
    return generation, text
