"""Normalizers: what happens to a text before it is cut into words. Aligned text in, aligned text out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from . import characters
from .aligned import Aligned
from .normalforms import composed, decomposed
from .options import Kind, Option, component, flag, listed, nullable, text
from .patterns import Pattern, read_pattern
from .precompiled import precompiled, read_charsmap

Normalizer: TypeAlias = Callable[[Aligned], Aligned]


def bytes_to_letters() -> dict[int, str]:
    """GPT-2's alphabet (Radford et al. 2019, encoder.py): each byte as a character that can be seen.

    Visible Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}


BYTE_LETTERS = bytes_to_letters()


def letters(character: str) -> str:
    """The UTF-8 bytes of a character, each as its letter."""
    return "".join(BYTE_LETTERS[b] for b in character.encode())


def sequence(normalizers: list[Normalizer]) -> Normalizer:
    """One after the other."""

    def normalize(piece: Aligned) -> Aligned:
        for step in normalizers:
            piece = step(piece)
        return piece

    return normalize


def _form(compose: bool, compatible: bool) -> Callable[[], Normalizer]:
    form = composed if compose else decomposed
    return lambda: lambda piece: piece.transform(form(piece.text, compatible))


def lowercase() -> Normalizer:
    """Each character by itself: a final sigma is not told from another."""
    return lambda piece: piece.each(str.lower)


def strip_accents() -> Normalizer:
    """Without marks; composed characters keep theirs, so NFD stands before it."""
    return lambda piece: piece.filter(lambda c: not characters.is_mark(c))


def prepend(prepend: str) -> Normalizer:
    """With a text before it, unless it is empty."""
    return lambda piece: piece.prepend(prepend) if prepend else piece


def replace(pattern: Pattern, content: str) -> Normalizer:
    """Each match replaced by a text."""
    return lambda piece: piece.replace(pattern.matches(piece.text), content)


def byte_level() -> Normalizer:
    """UTF-8 bytes as letters."""
    return lambda piece: piece.each(letters) if piece.text else piece


def strip(strip_left: bool, strip_right: bool) -> Normalizer:
    """Without white space at its ends."""

    def normalize(piece: Aligned) -> Aligned:
        whole = piece.text
        left = right = 0
        if strip_left:
            left = next((i for i, c in enumerate(whole) if not characters.is_space(c)), len(whole))
        if strip_right:
            right = next((i for i, c in enumerate(whole[::-1]) if not characters.is_space(c)), len(whole))
        if not left and not right:
            return piece
        return piece.transform(((c, 0) for c in whole[left : max(left, len(whole) - right)]), left)

    return normalize


def bert(
    clean_text: bool, handle_chinese_chars: bool, strip_accents: bool | None, lowercase: bool
) -> Normalizer:
    """BERT's own (Devlin et al. 2019, tokenization.py): without controls, Han characters apart, without
    accents (None: where it lowercases), lowercase."""

    def apart(character: str) -> str:
        return f" {character} " if characters.is_cjk(character) else character

    def normalize(piece: Aligned) -> Aligned:
        if clean_text:
            piece = piece.filter(lambda c: c not in "\0\ufffd" and not characters.is_control(c))
            piece = piece.each(lambda c: " " if characters.is_space(c) else c)
        if handle_chinese_chars:
            piece = piece.each(apart)
        if lowercase if strip_accents is None else strip_accents:
            piece = piece.transform(decomposed(piece.text, False))
            piece = piece.filter(lambda c: not characters.is_nonspacing(c))
        return piece.each(str.lower) if lowercase else piece

    return normalize


def read_normalizer(value: Any, where: str) -> Normalizer:
    """The normalizer that a JSON object states."""
    return component(value, KINDS, where)


KINDS = {
    "NFC": Kind(_form(True, False)),
    "NFD": Kind(_form(False, False)),
    "NFKC": Kind(_form(True, True)),
    "NFKD": Kind(_form(False, True)),
    "Lowercase": Kind(lowercase),
    "StripAccents": Kind(strip_accents),
    "Strip": Kind(strip, {"strip_left": Option(flag), "strip_right": Option(flag)}),
    "Prepend": Kind(prepend, {"prepend": Option(text)}),
    "Replace": Kind(replace, {"pattern": Option(read_pattern), "content": Option(text)}),
    "ByteLevel": Kind(byte_level),
    "Precompiled": Kind(precompiled, {"precompiled_charsmap": Option(read_charsmap)}),
    "BertNormalizer": Kind(
        bert,
        {
            "clean_text": Option(flag),
            "handle_chinese_chars": Option(flag),
            "strip_accents": Option(nullable(flag), None),
            "lowercase": Option(flag),
        },
    ),
    "Sequence": Kind(sequence, {"normalizers": Option(listed(read_normalizer))}),
}
