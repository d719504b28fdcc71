"""Find the language tokens of a translation model, and where the token of the target language is put.

The language tokens of mBART, NLLB and M2M100 are added tokens such as `ro_RO`, `ron_Latn` and `__ro__`. The
token of the source language is one of the special tokens around the source text. The token of the target
language is the first token that the decoder must generate (mBART-50, M2M100, NLLB), or the token that starts
the decoder (mBART). The language tokens of Marian are pieces such as `>>ron<<`. The token of the target
language is put before the source text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..config import LM, Config, EncoderDecoder
from ..errors import LimitError
from .formats.strict_json import parse

ADDED = "([a-z]{2,3}_(?:[A-Z]{2}|[A-Z][a-z]{3}))|__([a-z]{2,3})__"


@dataclass(frozen=True)
class Languages:
    """The language tokens of a translation model, and where the token of the target language is put.

    `codes` maps a language's code to its token's id. `place` is `first` (the first generated token), `start`
    (the token that starts the decoder) or `text` (before the source text).
    """

    codes: dict[str, int]
    place: Literal["first", "start", "text"]

    def token(self, name: str) -> int:
        """Return the token id of a language.

        The language is named by its code, such as `ro_RO`. The part before `_` is enough if only one code
        begins with it."""
        if name in self.codes:
            return self.codes[name]
        matches = [code for code in self.codes if code.partition("_")[0] == name]
        if len(matches) == 1:
            return self.codes[matches[0]]
        raise LimitError(f"the language must be one of {', '.join(sorted(self.codes))}, got {name!r:.40}")


def read_languages(tokenizer: str | None, start: int | None, config: Config) -> Languages | None:
    """Return the language tokens in a tokenizer.json, or None if the model isn't an encoder with a generating
    decoder.

    `start` is the token that starts the decoder. If `start` is a language token, the token of the target
    language replaces it.
    """
    translates = isinstance(config, EncoderDecoder) and isinstance(config.head, LM)
    if tokenizer is None or not translates:
        return None
    plan = parse(tokenizer, "tokenizer.json")
    added: dict[str, int] = {}
    pieces: dict[str, int] = {}
    for content, number, is_added in _pieces(plan) if isinstance(plan, dict) else ():
        if type(number) is not int or not 0 <= number < config.embedding.vocabulary:
            continue
        if is_added and (match := re.fullmatch(ADDED, content)):
            added[match[1] or match[2]] = number
        elif match := re.fullmatch(">>([A-Za-z_]+)<<", content):
            pieces[match[1]] = number
    if pieces:
        return Languages(pieces, "text")
    if not added:
        return None
    return Languages(added, "start" if start in added.values() else "first")


def _pieces(plan: dict[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    """Yield each token of a tokenizer.json: its text, its id, and whether it is an added token."""
    model, added = plan.get("model"), plan.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield from ((piece, number, False) for piece, number in vocabulary.items())
    elif isinstance(vocabulary, list):
        for number, item in enumerate(vocabulary):
            if isinstance(item, list) and item and isinstance(item[0], str):
                yield item[0], number, False
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and isinstance(token.get("content"), str):
            yield token["content"], token.get("id"), True
