r"""Translate regular expressions from Oniguruma's syntax to that of the standard library's `re`.

tfm supports alternatives, groups `(?:…)` and `(?i:…)`, lookahead, classes with nested ones, \p \P \s \S \d \r
\n \t, the text's ends \A and \z, and the quantifiers, greedy, lazy or possessive. Classes are written out as
ranges. Anything else raises an error that names it. Only `?` may follow a group, and an alternative may have
at most three unbounded repetitions. The remaining expressions have no exponential backtracking, so a hostile
file can't hang the reader.
"""

from __future__ import annotations

import re

from ...errors import CheckpointError
from . import character_classes
from .character_classes import Ranges, complement, union

PATTERN_LETTERS = 4096
DEPTH = 8
UNBOUNDED = 3  # repetitions without bound in one alternative
FEW = 64  # a bound up to which a repetition counts as bounded
_CONTROLS = {"r": "\r", "n": "\n", "t": "\t", "f": "\f", "v": "\v"}


def translate(pattern: str, where: str) -> re.Pattern[str]:
    """Translate a pattern from Oniguruma's syntax to a compiled expression of `re`.

    Raises CheckpointError for a pattern that isn't supported, or that may match the empty text.
    """
    if len(pattern) > PATTERN_LETTERS:
        raise CheckpointError(
            f"{where} may have at most {PATTERN_LETTERS} characters, but it has {len(pattern)}"
        )
    reader = _Reader(pattern, where)
    translation, width, _ = reader.alternatives(0)
    if reader.remaining():
        raise reader.fail("a ( before this )")
    if width == 0:
        raise CheckpointError(f"{where}: a pattern must not match the empty text: {pattern!r:.120}")
    return re.compile(translation)


def character_class(ranges: Ranges) -> str:
    """Write ranges of code points as a character class of `re`."""
    return "[" + "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges) + "]"


class _Reader:
    """A recursive descent parser of a pattern.

    `alternatives` and `_sequence` return three values: a translation for `re`, the least number of characters
    that the translation matches, and the number of its unbounded repetitions. For several alternatives, the
    last number is the largest number of one alternative. `_atom` also returns whether the atom is one
    character or class, which any quantifier may follow.
    """

    def __init__(self, pattern: str, where: str) -> None:
        self._pattern, self._where, self._at = pattern, where, 0

    def remaining(self) -> str:
        return self._pattern[self._at :]

    def fail(self, expected: str) -> CheckpointError:
        got = self.remaining()[:10] or "the end"
        return CheckpointError(f"{self._where}: expected {expected} at character {self._at} of the pattern "
                               f"{self._pattern!r:.120}, got {got!r}")  # fmt: skip

    def _take(self, start: str) -> bool:
        matches = self._pattern.startswith(start, self._at)
        self._at += len(start) * matches
        return matches

    def _next(self) -> str:
        if not self.remaining():
            raise self.fail("a character")
        self._at += 1
        return self._pattern[self._at - 1]

    def alternatives(self, depth: int) -> tuple[str, int, int]:
        if depth > DEPTH:
            raise self.fail(f"groups nested at most {DEPTH} levels deep")
        parts = [self._sequence(depth)]
        while self._take("|"):
            parts.append(self._sequence(depth))
        return "|".join(p[0] for p in parts), min(p[1] for p in parts), max(p[2] for p in parts)

    def _sequence(self, depth: int) -> tuple[str, int, int]:
        translation, width, unbounded = "", 0, 0
        while self.remaining()[:1] not in ("", "|", ")"):
            text, least, inner, single = self._atom(depth)
            quantifier, times, endless = self._quantifier(single)
            translation, width = translation + text + quantifier, width + least * times
            unbounded += inner + endless
        if unbounded > UNBOUNDED:
            raise self.fail(f"at most {UNBOUNDED} unbounded repetitions in an alternative")
        return translation, width, unbounded

    def _atom(self, depth: int) -> tuple[str, int, int, bool]:
        for opening in ("(?:", "(?i:", "(?=", "(?!"):
            if self._take(opening):
                translation, width, unbounded = self.alternatives(depth + 1)
                if not self._take(")"):
                    raise self.fail("a ) after the group")
                return f"{opening}{translation})", 0 if opening in ("(?=", "(?!") else width, unbounded, False
        for anchor, translation in ((r"\A", r"\A"), (r"\z", r"\Z")):
            if self._take(anchor):
                if self.remaining()[:1] in ("*", "+", "?", "{") and self.remaining():
                    raise self.fail("no *, +, ? or { after \\A or \\z")
                return translation, 0, 0, False
        if self._take("["):
            ranges = self._class(depth)
            if not ranges:
                raise self.fail("at least one character in the class […]")
            return character_class(ranges), 1, 0, True
        character = self._next()
        if character in "(){}[].^$*+?":
            self._at -= 1
            raise self.fail("a part of a pattern that tfm supports")
        ranges = self._escape() if character == "\\" else character
        return (re.escape(ranges) if isinstance(ranges, str) else character_class(ranges)), 1, 0, True

    def _quantifier(self, single: bool) -> tuple[str, int, int]:
        """Read a quantifier. Return it as `re` writes it, the least number of repetitions, and 1 if it has no
        upper bound.
        """
        match = re.match(r"(?:[*+?]|\{(\d{1,4})?(,)?(\d{1,4})?\})", self.remaining())
        if match is None:
            return "", 1, 0
        sign = match[0]
        if not single and sign != "?":
            raise self.fail("no *, + or { after a group")
        self._at += len(sign)
        if sign[0] == "{":
            if not match[1] and not match[3]:
                raise self.fail("a number in the braces")
            low = int(match[1] or 0)
            high = int(match[3]) if match[3] else None if match[2] else low
            if self.remaining()[:1] in ("+", "*", "?") or (high is not None and high < low):
                raise self.fail("ascending numbers in braces, and no *, + or ? after the braces")
            return f"{{{low},{'' if high is None else high}}}", low, int(high is None or high > FEW)
        mode = self.remaining()[:1] if self.remaining()[:1] in ("+", "?") else ""
        self._at += len(mode)
        if self.remaining()[:1] in ("+", "*", "?", "{") and self.remaining()[:1]:
            raise self.fail("no second *, +, ? or {")
        return sign + mode, int(sign == "+"), int(sign != "?")

    def _escape(self) -> str | Ranges:
        """Read what follows a backslash: a character, or the ranges of a class."""
        character = self._next()
        if character in "sS":
            return (
                character_classes.WHITESPACE if character == "s" else complement(character_classes.WHITESPACE)
            )
        if character == "d":
            return character_classes.category("Nd") or ()
        if character in "pP":
            name = re.match(r"\{(\w{1,2})\}", self.remaining())
            ranges = character_classes.category(name[1]) if name else None
            if name is None or ranges is None:
                raise self.fail("a general category of Unicode, such as {Lu}")
            self._at += len(name[0])
            return ranges if character == "p" else complement(ranges)
        if character in _CONTROLS:
            return _CONTROLS[character]
        if character.isascii() and not character.isalnum():
            return character
        raise self.fail("an escape that tfm supports")

    def _class(self, depth: int) -> Ranges:
        if depth > DEPTH:
            raise self.fail(f"classes […] nested at most {DEPTH} levels deep")
        negated, ranges, last = self._take("^"), [], None
        while not self._take("]"):
            if self.remaining().startswith(("&&", "[:")):
                raise self.fail("a class without && and [:name:]")
            if self._take("["):
                ranges, last = [*ranges, *self._class(depth + 1)], None
            elif last is not None and self.remaining()[:1] == "-" and self.remaining()[1:2] not in ("]", "["):
                self._at += 1
                end = self._member()
                if not isinstance(end, str) or end < last:
                    raise self.fail("an ascending range")
                ranges, last = [*ranges, (ord(last), ord(end))], None
            elif isinstance(member := self._member(), str):
                ranges, last = [*ranges, (ord(member), ord(member))], member
            else:
                ranges, last = [*ranges, *member], None
        return complement(union(ranges)) if negated else union(ranges)

    def _member(self) -> str | Ranges:
        return self._escape() if (character := self._next()) == "\\" else character
