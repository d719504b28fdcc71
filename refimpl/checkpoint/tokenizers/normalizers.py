"""Normalizers change a text before it is split into words. Each takes and returns a NormalizedString."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, TypeAlias

from . import character_classes
from .components import ComponentType, Option, flag, listed, nullable, read_component, text
from .normalized_string import NormalizedString
from .patterns import Pattern, read_pattern
from .precompiled import precompiled, read_charsmap
from .unicode_normalization import composed, decomposed

Normalizer: TypeAlias = Callable[[NormalizedString], NormalizedString]


def bytes_to_unicode() -> dict[int, str]:
    """Return GPT-2's table from each byte to a visible character (Radford et al. 2019, encoder.py).

    Bytes that are visible Latin-1 characters stay unchanged. The other 68 bytes become the characters from
    U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}


BYTE_TO_UNICODE = bytes_to_unicode()


def byte_level_characters(character: str) -> str:
    """Return the UTF-8 bytes of a character, each written as GPT-2's visible character for this byte."""
    return "".join(BYTE_TO_UNICODE[b] for b in character.encode())


def sequence(normalizers: list[Normalizer]) -> Normalizer:
    """Return a normalizer that applies several normalizers one after the other."""
    return lambda string: reduce(lambda changed, step: step(changed), normalizers, string)


def _form(compose: bool, compatible: bool) -> Callable[[], Normalizer]:
    form = composed if compose else decomposed
    return lambda: lambda string: string.transform(form(string.text, compatible))


def lowercase() -> Normalizer:
    """Return a normalizer that lowercases each character by itself. So a Greek sigma at a word's end is no
    exception.
    """
    return lambda string: string.map(str.lower)


def strip_accents() -> Normalizer:
    """Return a normalizer that removes combining marks.

    A composed character such as é keeps its accent, so NFD must be applied before.
    """
    return lambda string: string.filter(lambda c: not character_classes.is_mark(c))


def prepend(prepend: str) -> Normalizer:
    """Return a normalizer that puts a prefix before the text, unless the text is empty."""
    return lambda string: string.prepend(prepend) if prepend else string


def replace(pattern: Pattern, content: str) -> Normalizer:
    """Return a normalizer that replaces each match of a pattern by `content`."""
    return lambda string: string.replace(pattern.matches(string.text), content)


def byte_level() -> Normalizer:
    """Return a normalizer that replaces each UTF-8 byte by GPT-2's visible character for this byte."""
    return lambda string: string.map(byte_level_characters) if string.text else string


def strip(strip_left: bool, strip_right: bool) -> Normalizer:
    """Return a normalizer that removes white space at the text's beginning, at its end, or at both."""

    def normalize(string: NormalizedString) -> NormalizedString:
        text = string.text
        left = right = 0
        if strip_left:
            left = next((i for i, c in enumerate(text) if not character_classes.is_space(c)), len(text))
        if strip_right:
            right = next(
                (i for i, c in enumerate(text[::-1]) if not character_classes.is_space(c)), len(text)
            )
        if not left and not right:
            return string
        return string.transform(((c, 0) for c in text[left : max(left, len(text) - right)]), left)

    return normalize


def bert(
    clean_text: bool, handle_chinese_chars: bool, strip_accents: bool | None, lowercase: bool
) -> Normalizer:
    """Return BERT's normalizer (Devlin et al. 2019, tokenization.py).

    The normalizer removes control characters, puts spaces around Han characters, removes accents, and
    lowercases. Each of these steps has an option that switches it on or off. With `strip_accents` None,
    accents are removed if the text is lowercased.
    """

    def with_spaces(character: str) -> str:
        return f" {character} " if character_classes.is_cjk(character) else character

    def normalize(string: NormalizedString) -> NormalizedString:
        if clean_text:
            string = string.filter(lambda c: c not in "\0\ufffd" and not character_classes.is_control(c))
            string = string.map(lambda c: " " if character_classes.is_space(c) else c)
        if handle_chinese_chars:
            string = string.map(with_spaces)
        if lowercase if strip_accents is None else strip_accents:
            string = string.transform(decomposed(string.text, False))
            string = string.filter(lambda c: not character_classes.is_nonspacing(c))
        return string.map(str.lower) if lowercase else string

    return normalize


def read_normalizer(value: Any, where: str) -> Normalizer:
    """Build the normalizer that a JSON object of tokenizer.json describes."""
    return read_component(value, COMPONENT_TYPES, where)


COMPONENT_TYPES = {
    "NFC": ComponentType(_form(True, False)),
    "NFD": ComponentType(_form(False, False)),
    "NFKC": ComponentType(_form(True, True)),
    "NFKD": ComponentType(_form(False, True)),
    "Lowercase": ComponentType(lowercase),
    "StripAccents": ComponentType(strip_accents),
    "Strip": ComponentType(strip, {"strip_left": Option(flag), "strip_right": Option(flag)}),
    "Prepend": ComponentType(prepend, {"prepend": Option(text)}),
    "Replace": ComponentType(replace, {"pattern": Option(read_pattern), "content": Option(text)}),
    "ByteLevel": ComponentType(byte_level),
    "Precompiled": ComponentType(precompiled, {"precompiled_charsmap": Option(read_charsmap)}),
    "BertNormalizer": ComponentType(
        bert,
        {
            "clean_text": Option(flag),
            "handle_chinese_chars": Option(flag),
            "strip_accents": Option(nullable(flag), None),
            "lowercase": Option(flag),
        },
    ),
    "Sequence": ComponentType(sequence, {"normalizers": Option(listed(read_normalizer))}),
}
