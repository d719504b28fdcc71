"""Languages that a translator's tokens name, and where such a token stands.

mBART's are added tokens as `ro_RO`. That of the text is among the special tokens around it; that of the
answer is its first token, which the decoder is made to write (mBART-50), or the one that the decoder
begins with (mBART). Marian's are pieces as `>>ron<<`: that of the answer stands before the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ..config import LM, Config, EncoderDecoder
from ..errors import LimitError
from ..formats.strict_json import parse

if TYPE_CHECKING:
    from .generation_config import Generation


@dataclass(frozen=True)
class Languages:
    """The token of each language, and where that of the answer goes."""

    codes: dict[str, int]
    place: Literal["first", "start", "text"]

    def token(self, name: str) -> int:
        """The token of a language, by its code or by what alone of all codes stands before its `_`."""
        found = [code for code in self.codes if name in (code, code.partition("_")[0])]
        if name in self.codes or len(found) == 1:
            return self.codes[name if name in self.codes else found[0]]
        raise LimitError(f"the language must be one of {', '.join(sorted(self.codes))}, got {name!r:.40}")


def read_languages(tokenizer: str | None, start: int | None, config: Config) -> Languages | None:
    """What a tokenizer.json names, for a model that reads one text and writes another.

    `start` is what the decoder begins with: where it is a language, the answer's goes there.
    """
    pair = isinstance(config, EncoderDecoder) and isinstance(config.head, LM)
    if tokenizer is None or not pair:
        return None
    plan = parse(tokenizer, "tokenizer.json")
    pieces = list(_pieces(plan)) if isinstance(plan, dict) else []
    codes: dict[str, dict[str, int]] = {"added": {}, "text": {}}
    for content, number, added in pieces:
        fits = type(number) is int and 0 <= number < config.embedding.vocabulary
        if fits and added and re.fullmatch("[a-z]{2,3}_[A-Z]{2}", content):
            codes["added"][content] = number
        elif fits and (match := re.fullmatch(">>([A-Za-z_]+)<<", content)):
            codes["text"][match[1]] = number
    if codes["text"]:
        return Languages(codes["text"], "text")
    if not codes["added"]:
        return None
    return Languages(codes["added"], "start" if start in codes["added"].values() else "first")


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


def directed(
    generation: Generation, ids: Sequence[int], source: str | None = None, target: str | None = None
) -> tuple[Generation, list[int]]:
    """A text's ids, special tokens and all, and how it is answered, from one language to another.

    A language that isn't named stays what the checkpoint says. Raises LimitError for one that it doesn't
    know, or can't be told.
    """
    languages, made = generation.languages, [*ids]
    if languages is None:
        if source is None and target is None:
            return generation, made
        raise LimitError(
            f"this model has no tokens of languages, so it takes none, got {source or target!r:.40}"
        )
    if source is not None:
        token, all_of = languages.token(source), set(languages.codes.values())
        if languages.place == "text" or not all_of & set(made):
            raise LimitError(
                f"this model isn't told the language of a text, leave it out, got {source!r:.40}"
            )
        made = [token if one in all_of else one for one in made]
    if target is not None:
        token = languages.token(target)
        match languages.place:
            case "text":
                made = [token, *made]
            case "start":
                generation = replace(generation, start=token)
            case "first":
                generation = replace(generation, defaults=generation.defaults | {"forced_tokens": [token]})
    return generation, made
