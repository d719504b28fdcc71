"""Patterns that split a text into matches and the gaps between matches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from ...errors import CheckpointError
from .normalized_string import Match
from .oniguruma import translate

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class Pattern:
    """A regular expression that never matches the empty text."""

    def __init__(self, expression: re.Pattern[str]) -> None:
        self._expression = expression

    def matches(self, text: str) -> list[Match]:
        return _with_gaps((match.span() for match in self._expression.finditer(text)), text)


def _with_gaps(spans: Iterable[tuple[int, int]], text: str) -> list[Match]:
    """Return the matches in a text and the gaps between them, in order. An empty text consists of one empty
    gap.
    """
    parts: list[Match] = []
    last = 0
    for at, to in spans:
        if last < at:
            parts.append((last, at, False))
        parts.append((at, to, True))
        last = to
    if last < len(text) or not text:
        parts.append((last, len(text), False))
    return parts


def split_characters(matches: Callable[[str], bool]) -> Callable[[str], list[Match]]:
    """Return a function that splits a text at every character for which `matches` is true."""
    return lambda text: _with_gaps(((i, i + 1) for i, c in enumerate(text) if matches(c)), text)


def literal(text: str) -> Pattern:
    """Return a pattern that matches only the given text."""
    return Pattern(re.compile(re.escape(text)))


def regex(pattern: str, where: str) -> Pattern:
    """Return a pattern for a regular expression in Oniguruma's syntax."""
    return Pattern(translate(pattern, where))


def read_pattern(value: Any, where: str) -> Pattern:
    """Read a pattern of tokenizer.json: `{"String": …}` for a plain text, or `{"Regex": …}` for an
    expression.

    The components Split and Replace state their patterns in these two forms.
    """
    match value:
        case {"String": str(text)} if len(value) == 1 and text:
            return literal(text)
        case {"Regex": str(pattern)} if len(value) == 1:
            return regex(pattern, f"{where}.Regex")
    raise CheckpointError(f"{where} must be a String or a Regex that isn't empty, got {value!r:.80}")
