"""Post-processors put special tokens around texts, and remove white space from offsets.

A text is a list of `EncodedToken`s; a pair is two such lists. Each post-processor takes and returns a list of
texts, which are joined at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import takewhile
from typing import Any, NamedTuple, TypeAlias

from ...errors import CheckpointError
from . import pre_tokenizers
from .character_classes import is_space
from .components import ComponentType, Option, count, flag, listed, read_component, text
from .normalizers import BYTE_TO_UNICODE

_SPACE = BYTE_TO_UNICODE[ord(" ")]
MAX_PARTS = 256  # of a template


class EncodedToken(NamedTuple):
    """A token of a text: its id, its string, the range of the user's characters that it covers, and its
    segment.
    """

    id: int
    value: str
    offsets: tuple[int, int]
    type_id: int


Texts: TypeAlias = list[list[EncodedToken]]
PostProcessor: TypeAlias = Callable[[Texts, bool], Texts]  # (texts, whether to add special tokens)
SpecialToken: TypeAlias = tuple[str, int]  # the token and its id


def sequence(processors: list[PostProcessor]) -> PostProcessor:
    """Return a post-processor that applies several post-processors one after the other."""
    return lambda texts, special: reduce(lambda changed, step: step(changed, special), processors, texts)


def trim(tokens: list[EncodedToken], add_prefix_space: bool) -> list[EncodedToken]:
    """Shrink each token's offsets so that they leave out the white space at the token's ends.

    A space that the pre-tokenizer put before the text isn't one of the text's characters, so its offsets
    don't change.
    """
    return [
        token._replace(offsets=_trimmed_offsets(token, i == 0, add_prefix_space))
        for i, token in enumerate(tokens)
    ]


def _trimmed_offsets(token: EncodedToken, first: bool, add_prefix_space: bool) -> tuple[int, int]:
    start, end = token.offsets
    left = sum(1 for _ in takewhile(_is_blank, token.value))
    right = sum(1 for _ in takewhile(_is_blank, reversed(token.value)))
    if left:
        if (first or start == 0) and add_prefix_space and left == 1:
            left = 0
        start = min(start + left, end)
    if right and end >= right:
        end = max(end - right, start)
    return start, end


def _is_blank(character: str) -> bool:
    return character == _SPACE or is_space(character)


def byte_level(add_prefix_space: bool, trim_offsets: bool, use_regex: bool) -> PostProcessor:
    """Return a post-processor that removes white space from offsets if `trim_offsets` is true."""
    del use_regex

    def process(texts: Texts, add_special_tokens: bool) -> Texts:
        return [trim(tokens, add_prefix_space) for tokens in texts] if trim_offsets else texts

    return process


def _encoded(token: SpecialToken, type_id: int = 0) -> EncodedToken:
    value, id = token
    return EncodedToken(id, value, (0, 0), type_id)


def bert(sep: SpecialToken, cls: SpecialToken) -> PostProcessor:
    """Return the post-processor that makes [CLS] A [SEP] B [SEP] from texts A and B (Devlin et al. 2019)."""

    def process(texts: Texts, add_special_tokens: bool) -> Texts:
        if not add_special_tokens:
            return texts
        first, *rest = texts
        return [
            [_encoded(cls), *first, _encoded(sep)],
            *([*tokens, _encoded(sep, 1)] for tokens in rest),
        ]

    return process


def roberta(
    sep: SpecialToken, cls: SpecialToken, trim_offsets: bool, add_prefix_space: bool
) -> PostProcessor:
    """Return the post-processor that makes <s> A </s></s> B </s> from texts A and B (Liu et al. 2019).

    All tokens have segment 0.
    """

    def process(texts: Texts, add_special_tokens: bool) -> Texts:
        if trim_offsets:
            texts = [trim(tokens, add_prefix_space) for tokens in texts]
        texts = [[token._replace(type_id=0) for token in tokens] for tokens in texts]
        if not add_special_tokens:
            return texts
        starts = [cls] + [sep] * (len(texts) - 1)
        return [
            [_encoded(start), *tokens, _encoded(sep)] for start, tokens in zip(starts, texts, strict=True)
        ]

    return process


def template(
    single: list[tuple[str, str, int]],
    pair: list[tuple[str, str, int]],
    special_tokens: dict[str, list[SpecialToken]],
) -> PostProcessor:
    """Return a post-processor that puts texts and special tokens in the order of a template.

    `single` is the template for one text, and `pair` is the template for two texts."""
    for kind, name, _ in [*single, *pair]:
        if kind == "SpecialToken" and name not in special_tokens:
            raise CheckpointError(f"post_processor.special_tokens must have {name!r:.60}")

    def process(texts: Texts, add_special_tokens: bool) -> Texts:
        processed: Texts = []
        for kind, name, type_id in single if len(texts) == 1 else pair:
            if kind == "Sequence":
                index = 0 if name == "A" else 1
                tokens = texts[index] if index < len(texts) else []
                processed.append([token._replace(type_id=type_id) for token in tokens])
            elif add_special_tokens:
                processed.append([_encoded(token, type_id) for token in special_tokens[name]])
        return processed

    return process


def _read_special_token(value: Any, where: str) -> SpecialToken:
    """Read a special token, such as `["[SEP]", 102]`."""
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
        raise CheckpointError(f"{where} must be a token and its id, got {value!r:.60}")
    return value[0], count(value[1], f"{where}[1]")


def _read_part(value: Any, where: str) -> tuple[str, str, int]:
    match value:
        case {"Sequence": {"id": "A" | "B" as name, "type_id": type_id}} if len(value) == 1:
            return "Sequence", name, count(type_id, f"{where}.type_id")
        case {"SpecialToken": {"id": str(name), "type_id": type_id}} if len(value) == 1:
            return "SpecialToken", name, count(type_id, f"{where}.type_id")
    raise CheckpointError(f"{where} must be a Sequence or a SpecialToken, got {value!r:.80}")


def _read_special_tokens(value: Any, where: str) -> dict[str, list[SpecialToken]]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must be an object, got {value!r:.60}")
    special_tokens: dict[str, list[SpecialToken]] = {}
    for name, item in value.items():
        match item:
            case {"id": str(id), "ids": [*_], "tokens": [*_]} if id == name and len(item) == 3:
                ids = listed(count, MAX_PARTS)(item["ids"], f"{where}.{name}.ids")
                tokens = listed(text, MAX_PARTS)(item["tokens"], f"{where}.{name}.tokens")
                if len(ids) == len(tokens):
                    special_tokens[name] = list(zip(tokens, ids, strict=True))
        if name not in special_tokens:
            raise CheckpointError(
                f"{where}: {name!r:.40} must have the key id with this name, and equally many ids and "
                f"tokens, got {item!r:.80}"
            )
    return special_tokens


def read_post_processor(value: Any, where: str) -> PostProcessor:
    """Build the post-processor that a JSON object of tokenizer.json describes."""
    return read_component(value, COMPONENT_TYPES, where)


_PARTS = Option(listed(_read_part, MAX_PARTS))
COMPONENT_TYPES = {
    "ByteLevel": ComponentType(byte_level, pre_tokenizers.BYTE_LEVEL),
    "BertProcessing": ComponentType(
        bert, {"sep": Option(_read_special_token), "cls": Option(_read_special_token)}
    ),
    "RobertaProcessing": ComponentType(
        roberta,
        {
            "sep": Option(_read_special_token),
            "cls": Option(_read_special_token),
            "trim_offsets": Option(flag),
            "add_prefix_space": Option(flag),
        },
    ),
    "TemplateProcessing": ComponentType(
        template, {"single": _PARTS, "pair": _PARTS, "special_tokens": Option(_read_special_tokens)}
    ),
    "Sequence": ComponentType(sequence, {"processors": Option(listed(read_post_processor))}),
}
