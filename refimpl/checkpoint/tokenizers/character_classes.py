"""The character classes that patterns and pre-tokenizers use.

The general categories come from the standard library's `unicodedata` (Unicode 14 in Python 3.11). The
`tokenizers` library uses tables of five Unicode versions. The tables of Oniguruma and of Rust are newer than
Unicode 14; the table of `unicode_categories` (punctuation and controls) is Unicode 8. If two tables disagree
about a character, the tokens may differ too. tests/refimpl/checkpoint/tokenizers/test_oracles.py counts these
characters. Nearly all of them were assigned after the older of the two tables.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]  # code points (first, last), ascending, without overlap

LAST = 0x10FFFF
# Unicode's White_Space. Python's str.isspace() also takes 1C to 1F.
WHITESPACE: Ranges = (
    (0x09, 0x0D), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A),
    (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000),
)  # fmt: skip
SPACES = frozenset(chr(c) for low, high in WHITESPACE for c in range(low, high + 1))
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
# Letters in circles and squares are symbols but alphabetic (PropList's Other_Alphabetic).
_CIRCLED: Ranges = ((0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189))
_JOINERS: Ranges = ((0x200C, 0x200D),)
_CJK: Ranges = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Merge ranges of code points into ascending ranges that don't overlap or touch."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    """Return the ranges of all code points that aren't in the given ranges."""
    edges = [-1, *(edge for pair in ranges for edge in pair), LAST + 1]
    gaps = zip(edges[::2], edges[1::2], strict=True)
    return tuple((low + 1, high - 1) for low, high in gaps if low + 1 < high)


@cache
def _categories() -> dict[str, Ranges]:
    """Return a table from each general category, of one letter or two, to its code points."""
    ranges_of: dict[str, list[tuple[int, int]]] = {}
    start, name = 0, unicodedata.category("\0")
    for code in range(1, LAST + 2):
        other = unicodedata.category(chr(code)) if code <= LAST else ""
        if other != name:
            for key in (name, name[0]):
                ranges_of.setdefault(key, []).append((start, code - 1))
            start, name = code, other
    return {key: union(ranges) for key, ranges in ranges_of.items()}


def category(name: str) -> Ranges | None:
    """Return the code points of a general category such as "L" or "Lu", or None if the name is unknown."""
    return _categories().get(name)


@cache
def word() -> Ranges:
    r"""Return the code points that `\w` matches according to UTS 18.

    They are alphabetic characters, marks, decimal digits, connectors and the two joiners.
    """
    parts = (category(name) or () for name in ("L", "M", "Nd", "Nl", "Pc"))
    return union([*(pair for part in parts for pair in part), *_CIRCLED, *_JOINERS])


@cache
def _members(which: str) -> frozenset[str]:
    ranges = word() if which == "word" else _CJK
    return frozenset(chr(c) for low, high in ranges for c in range(low, high + 1))


def is_space(character: str) -> bool:
    return character in SPACES


def is_word(character: str) -> bool:
    return character in _members("word")


def is_cjk(character: str) -> bool:
    """Return whether BERT treats a character as a Han character (Devlin et al. 2019, tokenization.py).

    BERT begins block E at 2B920, although Unicode begins it at 2B820. tfm does the same, because vocabularies
    were trained with this error.
    """
    return character in _members("cjk")


def is_number(character: str) -> bool:
    return unicodedata.category(character)[0] == "N"


def is_punctuation(character: str) -> bool:
    """Return whether BERT treats a character as punctuation.

    It does so for general category P, and for these symbols of ASCII: $ + < = > ^ ` | ~."""
    return character in _ASCII_PUNCTUATION or unicodedata.category(character)[0] == "P"


def is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def is_nonspacing(character: str) -> bool:
    return unicodedata.category(character) == "Mn"


def is_control(character: str) -> bool:
    """Return whether a character is a control, a format or a private-use character (category C).

    Unassigned characters, tab and line ends don't count."""
    return character not in "\t\n\r" and unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs")
