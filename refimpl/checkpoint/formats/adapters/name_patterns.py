r"""Patterns of module names in an adapter's settings: a small part of regular expressions, which is matched
in limited time.

peft gives such a pattern to Python's `re`. There, a pattern like `(a|a)*b` takes time that doubles with each
letter of a name. The matcher here keeps the set of all positions in the name that it can have reached. So the
work grows only with the length of the name times the length of the pattern, and a budget limits the work.

A pattern may contain letters, `.`, `\.`, `\d`, `\w`, `[…]`, `[^…]`, `(…)`, `(?:…)`, `|`, `*`, `+`, `?`,
`{m}`, `{m,}`, `{m,n}`, `^`, `$` and `\b`. Repetitions may also be lazy. Anything else raises an error that
names it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ....errors import ConfigError, LimitError

LENGTH = 4000  # characters of a pattern
DEPTH = 16  # of its groups
MOST = 1000  # the largest number in {m,n}
STEPS = 2_000_000  # positions that all patterns of an adapter may visit: about a second

PLAIN = re.compile(r"\^?[\w.\-]+\$?", re.ASCII)
REPEAT = re.compile(r"\{(\d{1,4})(,?)(\d{0,4})\}", re.ASCII)
DIGITS = frozenset("0123456789")
WORD = DIGITS | frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
CLASSES = {"d": DIGITS, "w": WORD}


@dataclass(frozen=True)
class Characters:
    """A pattern that matches one of `characters`, or with `negated` any one character that isn't in
    `characters`.
    """

    characters: frozenset[str]
    negated: bool = False


@dataclass(frozen=True)
class Sequence:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alternatives:
    options: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    part: Node
    least: int
    most: int | None


@dataclass(frozen=True)
class Edge:
    """A pattern that matches the beginning of the name, or with `end` the end of the name."""

    end: bool


@dataclass(frozen=True)
class WordBoundary:
    """A pattern that matches a position with a letter, a digit or `_` on exactly one side."""


Node = Characters | Sequence | Alternatives | Repeat | Edge | WordBoundary


class NamePattern:
    """A pattern of module names. Raises ConfigError for syntax that isn't supported."""

    def __init__(self, text: str, where: str) -> None:
        if len(text) > LENGTH:
            raise ConfigError(f"{where}: a pattern may have at most {LENGTH} characters, got {len(text)}")
        self._plain = text if PLAIN.fullmatch(text) else None
        self._node = _Reader(text, where).read()

    def matches(self, name: str, work: Work, *, suffix: bool) -> bool:
        """Return whether the pattern matches the whole name. With `suffix`, it may instead match everything
        after some dot of the name.
        """
        if self._plain is not None:
            work.spend(1)
            return _matches_plain(self._plain, name, suffix)
        starts = {0} | ({i + 1 for i, c in enumerate(name) if c == "."} if suffix else set())
        return len(name) in _ends(self._node, name, starts, work)


class Work:
    """A counter of the steps that matching takes. Raises LimitError after `STEPS` steps."""

    def __init__(self, where: str) -> None:
        self._where, self._left = where, STEPS

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise LimitError(
                f"{self._where}: matching the patterns of names may take at most {STEPS} steps, but it "
                "takes more"
            )


def _matches_plain(pattern: str, name: str, suffix: bool) -> bool:
    """Return whether a pattern of letters, digits, hyphens and dots matches the name. A dot matches any
    character. Most patterns have this form.
    """
    letters = pattern.removeprefix("^").removesuffix("$")
    start = len(name) - len(letters)
    inside = suffix and not pattern.startswith("^") and start > 0 and name[start - 1] == "."
    if not (start == 0 or inside):
        return False
    return all(wanted in (".", actual) for wanted, actual in zip(letters, name[start:], strict=True))


def _ends(node: Node, name: str, starts: set[int], work: Work) -> set[int]:
    """Return the positions in the name at which a match of `node` can end if it begins at one of `starts`."""
    work.spend(len(starts) + 1)
    match node:
        case Characters(characters, negated):
            return {i + 1 for i in starts if i < len(name) and (name[i] in characters) != negated}
        case Sequence(parts):
            for part in parts:
                starts = _ends(part, name, starts, work)
                if not starts:
                    break
            return starts
        case Alternatives(options):
            return set().union(*(_ends(option, name, starts, work) for option in options))
        case Edge(end):
            return starts & {len(name) if end else 0}
        case WordBoundary():
            inside = [False, *(c in WORD for c in name), False]
            return {i for i in starts if inside[i] != inside[i + 1]}
        case Repeat(part, least, most):
            for _ in range(least):
                starts = _ends(part, name, starts, work)
            reached, latest = set(starts), starts
            for _ in range(len(name) if most is None else most - least):
                latest = _ends(part, name, latest, work) - reached
                if not latest:
                    break
                reached |= latest
            return reached


class _Reader:
    """A parser that reads a pattern from left to right."""

    def __init__(self, text: str, where: str) -> None:
        self._text, self._where, self._at = text, where, 0

    def read(self) -> Node:
        node = self._alternatives(0)
        if self._at < len(self._text):
            raise self._fail("a ( before each )")
        return node

    def _fail(self, must: str) -> ConfigError:
        rest = self._text[self._at : self._at + 20]
        return ConfigError(f"{self._where}: the pattern {self._text!r:.80} must have {must}, at {rest!r}")

    def _take(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _next(self) -> str:
        if self._at == len(self._text):
            raise self._fail("another character at its end")
        self._at += 1
        return self._text[self._at - 1]

    def _alternatives(self, depth: int) -> Node:
        if depth > DEPTH:
            raise self._fail(f"groups nested at most {DEPTH} levels deep")
        options = [self._sequence(depth)]
        while self._take("|"):
            options.append(self._sequence(depth))
        return options[0] if len(options) == 1 else Alternatives(tuple(options))

    def _sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            parts.append(self._repeated(self._one(depth)))
        return Sequence(tuple(parts))

    def _one(self, depth: int) -> Node:
        if self._take("("):
            if self._take("?") and not self._take(":"):
                raise self._fail("only groups like (…) and (?:…)")
            node = self._alternatives(depth + 1)
            if not self._take(")"):
                raise self._fail("a ) for each (")
            return node
        if self._take("["):
            return self._class()
        if self._take("."):
            return Characters(frozenset("\n"), negated=True)
        if self._take("\\b"):
            return WordBoundary()
        if self._take("^"):
            return Edge(end=False)
        if self._take("$"):
            return Edge(end=True)
        if self._text[self._at] in "*+?{":
            raise self._fail("a character or a group before *, +, ? and {")
        return Characters(self._characters())

    def _characters(self) -> frozenset[str]:
        """Read one letter, or one escape with a backslash. Return the characters that it matches."""
        character = self._next()
        if character != "\\":
            return frozenset(character)
        escaped = self._next()
        if escaped in CLASSES:
            return CLASSES[escaped]
        if escaped.isalnum():
            self._at -= 2
            raise self._fail("after \\ only punctuation, b, d or w")
        return frozenset(escaped)

    def _class(self) -> Node:
        negated = self._take("^")
        characters = self._range()  # a ] that stands first is one of the characters
        while not self._take("]"):
            characters |= self._range()
        return Characters(characters, negated)

    def _range(self) -> frozenset[str]:
        """Read one character of a class `[…]`, or one range such as `a-z`. Return the characters that it
        matches.
        """
        first = self._characters()
        after = self._text[self._at : self._at + 2]
        if len(after) < 2 or after[0] != "-" or after[1] == "]":
            return first
        self._at += 1
        last = self._characters()
        if len(first) > 1 or len(last) > 1 or not min(first) <= min(last) <= "\x7f":
            raise self._fail("ascending ranges of ASCII characters")
        return frozenset(map(chr, range(ord(min(first)), ord(min(last)) + 1)))

    def _repeated(self, node: Node) -> Node:
        for sign, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._take(sign):
                return self._once(Repeat(node, least, most))
        if match := REPEAT.match(self._text, self._at):
            self._at = match.end()
            least = int(match[1])
            most = least if not match[2] else int(match[3]) if match[3] else None
            if max(least, most or 0) > MOST or (most is not None and most < least):
                raise self._fail(f"ascending numbers of at most {MOST} in braces")
            return self._once(Repeat(node, least, most))
        return node

    def _once(self, node: Repeat) -> Node:
        """Read the `?` that makes a repetition lazy, and return the repetition. A lazy repetition matches the
        same names. Raises ConfigError if a second repetition follows.
        """
        self._take("?")
        if self._at < len(self._text) and self._text[self._at] in "*+?{":
            raise self._fail("only one of *, +, ? and {…} after a character or group")
        return node
