"""Patterns that cut a text: into what they match and what lies between."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import CheckpointError
from .aligned import Match
from .oniguruma import translate

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class Pattern:
    """A regular expression that never matches the empty text."""

    def __init__(self, expression: re.Pattern[str]) -> None:
        self._expression = expression

    def matches(self, text: str) -> list[Match]:
        return _between((match.span() for match in self._expression.finditer(text)), text)


def _between(spans: Iterable[tuple[int, int]], text: str) -> list[Match]:
    """What matches and what doesn't, from end to end; of an empty text the empty piece."""
    found: list[Match] = []
    last = 0
    for at, to in spans:
        if last < at:
            found.append((last, at, False))
        found.append((at, to, True))
        last = to
    if last < len(text) or not text:
        found.append((last, len(text), False))
    return found


def single(holds: Callable[[str], bool]) -> Callable[[str], list[Match]]:
    """Cuts a text at each character for which `holds` is true."""
    return lambda text: _between(((i, i + 1) for i, c in enumerate(text) if holds(c)), text)


def literal(text: str) -> Pattern:
    """A pattern that matches a text and no other."""
    return Pattern(re.compile(re.escape(text)))


def regex(pattern: str, where: str) -> Pattern:
    """The pattern that Oniguruma's syntax states."""
    return Pattern(translate(pattern, where))


def read_pattern(value: Any, where: str) -> Pattern:
    """`{"String": …}` or `{"Regex": …}` as Split and Replace have them."""
    match value:
        case {"String": str(text)} if len(value) == 1 and text:
            return literal(text)
        case {"Regex": str(pattern)} if len(value) == 1:
            return regex(pattern, f"{where}.Regex")
    raise CheckpointError(f"{where} must be a String or a Regex that isn't empty, got {value!r:.80}")
