"""Read a text that comes in pieces. A reading function pauses and waits for more text while the meaning of
the text so far isn't certain.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import TypeVar

R = TypeVar("R")
Reading = Generator[None, None, R]  # waits for more text where it yields

LONGEST_ASIDE = 256  # characters of a key, and of what stands beside a name
LONGEST_RUN = 4096  # of a name, a word, a number: of 4,300 digits Python reads none
BLANKS = re.compile(r"\s*")


class UnreadableError(Exception):
    """Raised if a text doesn't have the expected form."""


class Marks:
    """Marks to search for in a text. If the text has `before` directly in front of a mark, the match includes
    `before`.
    """

    def __init__(self, marks: Sequence[str], before: str = "") -> None:
        self._marks = [*marks, *(before + mark for mark in marks if before)]
        longest_first = sorted(self._marks, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._longest = max(map(len, self._marks), default=0)

    def search(self, text: str, at: int) -> re.Match[str] | None:
        """Return the first mark at or after the position `at`, or None."""
        return self._pattern.search(text, at)

    def partial(self, text: str, at: int) -> int:
        """Return the position near the end of the text at which an incomplete mark may begin, or the text's
        length if no mark may begin there."""
        for i in range(max(at, len(text) - self._longest + 1), len(text)):
            rest = text[i:]
            if any(len(mark) > len(rest) and mark.startswith(rest) for mark in self._marks):
                return i
        return len(text)


class TextReader:
    """The text that has come so far, and the position up to which it was read."""

    def __init__(self) -> None:
        self._buffer, self._at = "", 0
        self._ended = False
        self._short = False  # whether more was needed at the end

    def _find(self, marks: Marks) -> tuple[re.Match[str] | None, int]:
        """Return the next mark, or None, and the end of the text that is surely before any mark.

        Without a next mark, characters at the end that may begin a mark aren't counted as text.
        """
        found = marks.search(self._buffer, self._at)
        certain = len(self._buffer) if found is None else found.start()
        if not self._ended:
            partial = marks.partial(self._buffer, self._at)
            if partial < certain:
                return None, partial
        return found, certain

    def _wait(self) -> Reading[None]:
        if self._ended:
            self._short = True
            raise UnreadableError
        yield

    def _peek(self) -> Reading[str]:
        """Return the next character without reading it. The result is empty at the end of the text."""
        while self._at >= len(self._buffer) and not self._ended:
            yield
        self._short |= self._at >= len(self._buffer)
        return self._buffer[self._at : self._at + 1]

    def _skip_blanks(self) -> Reading[None]:
        while True:
            self._at = _end(BLANKS.match(self._buffer, self._at))
            if self._at < len(self._buffer) or self._ended:
                return
            yield

    def _next_is(self, mark: str) -> Reading[bool]:
        """Read a mark if it follows, ignoring blanks, and return whether it does. Nothing is read
        otherwise.
        """
        at = self._at
        for word in mark.split():
            yield from self._skip_blanks()
            while not self._buffer.startswith(word, self._at):
                rest = self._buffer[self._at :]
                partial = word.startswith(rest)
                self._short |= partial and self._ended
                if self._ended or not partial:
                    self._at = at
                    return False
                yield
            self._at += len(word)
        return True

    def _expect(self, mark: str) -> Reading[None]:
        if not (yield from self._next_is(mark)):
            raise UnreadableError

    def _run(self, pattern: re.Pattern[str]) -> Reading[str]:
        """Read and return as many characters as match the pattern, after skipping blanks."""
        yield from self._skip_blanks()
        while _end(found := pattern.match(self._buffer, self._at), self._at) == len(self._buffer):
            if self._ended:
                self._short = True
                break
            yield
        if found is None or len(found[0]) > LONGEST_RUN:
            raise UnreadableError
        self._at = found.end()
        return found[0]

    def _until(self, mark: str) -> Reading[str]:
        """Read a short text without line breaks and the mark after it, and return the text."""
        while (end := self._buffer.find(mark, self._at)) < 0:
            rest = self._buffer[self._at :]
            if len(rest) > LONGEST_ASIDE + len(mark) or "\n" in rest:
                raise UnreadableError
            yield from self._wait()
        text = self._buffer[self._at : end]
        if len(text) > LONGEST_ASIDE or "\n" in text:
            raise UnreadableError
        self._at = end + len(mark)
        return text

    def _forget(self) -> None:
        """Drop the text that was read. Positions in the dropped text become invalid."""
        self._buffer, self._at = self._buffer[self._at :], 0


def _end(found: re.Match[str] | None, otherwise: int = 0) -> int:
    return otherwise if found is None else found.end()
