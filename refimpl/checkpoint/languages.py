"""The languages for which a translator has tokens, and the place of the token for the answer's language.

The language tokens of mBART, NLLB and M2M100 are added tokens such as `ro_RO`, `ron_Latn` and `__ro__`. The
text's language is among the special tokens around the text. The answer's language is the answer's first
token, which the decoder is forced to generate (mBART-50, M2M100, NLLB), or the token that the decoder begins
with (mBART). Marian's language tokens are pieces such as `>>ron<<`; the token of the answer's language is put
before the text.
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
    """The token of each language, and the place at which the token of the answer's language is put."""

    codes: dict[str, int]
    place: Literal["first", "start", "text"]

    def token(self, name: str) -> int:
        """Return the token of a language, named by its code or, if only one code has it, the part before
        `_`."""
        if name in self.codes:
            return self.codes[name]
        matches = [code for code in self.codes if code.partition("_")[0] == name]
        if len(matches) == 1:
            return self.codes[matches[0]]
        raise LimitError(f"the language must be one of {', '.join(sorted(self.codes))}, got {name!r:.40}")


def read_languages(tokenizer: str | None, start: int | None, config: Config) -> Languages | None:
    """Return the languages that a tokenizer.json names, for a model with an encoder and a generating decoder.

    `start` is the token that the decoder begins with. If `start` is a language's token, the token of the
    answer's language takes its place.
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
    """(piece, id, whether it is an added token) of a tokenizer.json, in any of its models' forms."""
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
