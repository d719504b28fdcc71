"""Post-processors: what stands around a text, and which of its characters a token is said to be.

A text is a list of `Placed` tokens; a pair of texts is two. A processor takes and gives lists of
lists, which are joined at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any, NamedTuple, TypeAlias

from ..errors import CheckpointError
from . import pretokenizers
from .characters import is_space
from .normalizers import BYTE_LETTERS
from .options import Kind, Option, component, count, flag, listed, text

_SPACE = BYTE_LETTERS[ord(" ")]
PIECES = 256  # of a template


class Placed(NamedTuple):
    """A token, the characters of the user's text that it stands for, and its segment."""

    id: int
    piece: str
    span: tuple[int, int]
    segment: int


Texts: TypeAlias = list[list[Placed]]
Processor: TypeAlias = Callable[[Texts, bool], Texts]  # with special tokens or without
Named: TypeAlias = tuple[str, int]


def sequence(processors: list[Processor]) -> Processor:
    """One after the other."""

    def process(texts: Texts, special: bool) -> Texts:
        for step in processors:
            texts = step(texts, special)
        return texts

    return process


def trim(tokens: list[Placed], add_prefix_space: bool) -> list[Placed]:
    """Without the white space at the ends of each token's piece; a space that was put before the text,
    and so is no character of it, isn't taken off."""
    return [t._replace(span=_trimmed(t, i == 0, add_prefix_space)) for i, t in enumerate(tokens)]


def _trimmed(token: Placed, first: bool, add_prefix_space: bool) -> tuple[int, int]:
    start, end = token.span
    left = sum(1 for _ in takewhile(_blank, token.piece))
    right = sum(1 for _ in takewhile(_blank, reversed(token.piece)))
    if left:
        if (first or start == 0) and add_prefix_space and left == 1:
            left = 0
        start = min(start + left, end)
    if right and end >= right:
        end = max(end - right, start)
    return start, end


def _blank(character: str) -> bool:
    return character == _SPACE or is_space(character)


def byte_level(add_prefix_space: bool, trim_offsets: bool, use_regex: bool) -> Processor:
    """Offsets without white space, where `trim_offsets` says so."""
    del use_regex

    def process(texts: Texts, special: bool) -> Texts:
        return [trim(tokens, add_prefix_space) for tokens in texts] if trim_offsets else texts

    return process


def _special(token: Named, segment: int = 0) -> Placed:
    return Placed(token[1], token[0], (0, 0), segment)


def bert(sep: Named, cls: Named) -> Processor:
    """[CLS] A [SEP] B [SEP] (Devlin et al. 2019)."""

    def process(texts: Texts, special: bool) -> Texts:
        if not special:
            return texts
        first, *rest = texts
        return [
            [_special(cls), *first, _special(sep)],
            *([*tokens, _special(sep, 1)] for tokens in rest),
        ]

    return process


def roberta(sep: Named, cls: Named, trim_offsets: bool, add_prefix_space: bool) -> Processor:
    """<s> A </s></s> B </s>, all of segment 0 (Liu et al. 2019)."""

    def process(texts: Texts, special: bool) -> Texts:
        if trim_offsets:
            texts = [trim(tokens, add_prefix_space) for tokens in texts]
        texts = [[token._replace(segment=0) for token in tokens] for tokens in texts]
        if not special:
            return texts
        starts = [cls] + [sep] * (len(texts) - 1)
        return [[_special(s), *t, _special(sep)] for s, t in zip(starts, texts, strict=True)]

    return process


def template(
    single: list[tuple[str, str, int]],
    pair: list[tuple[str, str, int]],
    special_tokens: dict[str, list[Named]],
) -> Processor:
    """Texts and special tokens in the order of a template, one for a text and one for a pair."""
    for kind, name, _ in [*single, *pair]:
        if kind == "SpecialToken" and name not in special_tokens:
            raise CheckpointError(f"post_processor.special_tokens must have {name!r:.60}")

    def process(texts: Texts, special: bool) -> Texts:
        made: Texts = []
        for kind, name, segment in single if len(texts) == 1 else pair:
            if kind == "Sequence":
                found = texts[name == "B"] if name == "A" or len(texts) > 1 else []
                made.append([token._replace(segment=segment) for token in found])
            elif special:
                made.append([_special(token, segment) for token in special_tokens[name]])
        return made

    return process


def _read_named(value: Any, where: str) -> Named:
    """`["[SEP]", 102]`."""
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
        raise CheckpointError(f"{where} must be a token and its id, got {value!r:.60}")
    return value[0], count(value[1], f"{where}[1]")


def _read_part(value: Any, where: str) -> tuple[str, str, int]:
    match value:
        case {"Sequence": {"id": "A" | "B" as name, "type_id": segment}} if len(value) == 1:
            return "Sequence", name, count(segment, f"{where}.type_id")
        case {"SpecialToken": {"id": str(name), "type_id": segment}} if len(value) == 1:
            return "SpecialToken", name, count(segment, f"{where}.type_id")
    raise CheckpointError(f"{where} must be a Sequence or a SpecialToken, got {value!r:.80}")


def _read_special(value: Any, where: str) -> dict[str, list[Named]]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must be an object, got {value!r:.60}")
    found: dict[str, list[Named]] = {}
    for name, token in value.items():
        match token:
            case {"id": str(own), "ids": [*ids], "tokens": [*pieces]} if own == name and len(token) == 3:
                numbers = listed(count, PIECES)(ids, f"{where}.{name}.ids")
                texts = listed(text, PIECES)(pieces, f"{where}.{name}.tokens")
                if len(numbers) == len(texts):
                    found[name] = list(zip(texts, numbers, strict=True))
        if name not in found:
            raise CheckpointError(f"{where}: {name!r:.40} must have its ids and tokens, got {token!r:.80}")
    return found


def read_processor(value: Any, where: str) -> Processor:
    """The post-processor that a JSON object states."""
    return component(value, KINDS, where)


_PARTS = Option(listed(_read_part, PIECES))
KINDS = {
    "ByteLevel": Kind(byte_level, pretokenizers.BYTE_LEVEL),
    "BertProcessing": Kind(bert, {"sep": Option(_read_named), "cls": Option(_read_named)}),
    "RobertaProcessing": Kind(
        roberta,
        {
            "sep": Option(_read_named),
            "cls": Option(_read_named),
            "trim_offsets": Option(flag),
            "add_prefix_space": Option(flag),
        },
    ),
    "TemplateProcessing": Kind(
        template, {"single": _PARTS, "pair": _PARTS, "special_tokens": Option(_read_special)}
    ),
    "Sequence": Kind(sequence, {"processors": Option(listed(read_processor))}),
}
