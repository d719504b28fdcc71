"""A piece of text that remembers, for each of its characters, where in the original it comes from.

Offsets of tokens are offsets in the text as the user gave it, whatever normalizers made of it. Each
change is a list of (character, change): 0 takes the place of the next old character, 1 is new and
shares the place of the one before, -N takes the place of one and drops the N after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from ..errors import LimitError

Span: TypeAlias = tuple[int, int]
Match: TypeAlias = tuple[int, int, bool]  # from, to, whether the pattern matched there
BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
LONGEST = 2**24  # characters that a text may grow to


class Aligned:
    """`text`, the original `spans` of its characters, and the original's part `start` to `end`."""

    __slots__ = ("end", "spans", "start", "text")

    def __init__(self, text: str, spans: list[Span], start: int, end: int) -> None:
        if len(text) > LONGEST:
            raise LimitError(f"a normalized text may have {LONGEST} characters, this one has {len(text)}")
        self.text, self.spans, self.start, self.end = text, spans, start, end

    @classmethod
    def of(cls, text: str) -> Aligned:
        """A text as the user gave it."""
        return cls(text, [(i, i + 1) for i in range(len(text))], 0, len(text))

    def slice(self, at: int, to: int) -> Aligned:
        """Characters `at` to `to`, at least one.

        Where normalization put characters in another order, the part of the original that they come
        from may be inside out; it is empty then.
        """
        start, end = self.spans[at][0], self.spans[to - 1][1]
        inside = self.start <= start <= end <= self.end
        return Aligned(self.text[at:to], self.spans[at:to], start, end if inside else start)

    def _reach(self) -> Span | None:
        """The characters that come from this piece's own part of the original: nearly always all.

        The library finds the characters to change by their place in the original, so a piece that
        is inside out (see `slice`) is not replaced but added to. Kept: the ids are what counts.
        """
        if self.start == self.end:
            return (0, 0)
        apart = (i for i, span in enumerate(self.spans) if not self.start <= span[1] <= self.end)
        to = next(apart, len(self.spans))
        at = next((i for i in range(to) if self.spans[i][0] != self.spans[i][1]), to)
        return (at, to) if to else None

    def transform(self, changes: Iterable[tuple[str, int]], dropped: int = 0) -> Aligned:
        """The text after changes to the whole of it, of which the first `dropped` characters go."""
        reach = self._reach()
        if reach is None:
            return self
        at, to = reach
        i = min(at + dropped, to)
        text: list[str] = []
        spans: list[Span] = []
        for character, change in changes:
            if change > 0:
                spans.append(self.spans[i - 1] if i else (self.start, self.start))
            else:
                spans.append(self.spans[i])
                i = min(to, i + 1 - change) if i < to else i
            text.append(character)
        return self._put(at, to, "".join(text), spans)

    def each(self, change: Callable[[str], str]) -> Aligned:
        """Each character replaced by those of a text that isn't empty."""
        return self.transform((new, int(i > 0)) for c in self.text for i, new in enumerate(change(c)))

    def filter(self, keep: Callable[[str], bool]) -> Aligned:
        """Without the characters for which `keep` is false."""
        kept: list[tuple[str, int]] = []
        dropped = before = 0
        for character in self.text:
            if not keep(character):
                dropped += 1
                continue
            if kept:
                kept[-1] = (kept[-1][0], -dropped)
            else:
                before = dropped
            kept.append((character, 0))
            dropped = 0
        if kept:
            kept[-1] = (kept[-1][0], -dropped)
        return self.transform(kept, before)

    def prepend(self, added: str) -> Aligned:
        """With a text before it that shares the place of the first character; empty stays empty."""
        if not self.text:
            return self
        return self._put(0, 0, added, [self.spans[0]] * len(added))

    def replace(self, matches: Sequence[Match], content: str) -> Aligned:
        """Each match replaced by `content`, at the place of the match's last character."""
        found = sum(matched for _, _, matched in matches)
        if found * len(content) > LONGEST:
            raise LimitError(f"a normalized text may have {LONGEST} characters")
        text: list[str] = []
        spans: list[Span] = []
        for at, to, matched in matches:
            text.append(content if matched else self.text[at:to])
            spans += [self.spans[to - 1]] * len(content) if matched else self.spans[at:to]
        return Aligned("".join(text), spans, self.start, self.end)

    def split(self, matches: Sequence[Match], behavior: str) -> list[Aligned]:
        """The pieces between and of matches that aren't empty; `behavior` says what matches become."""
        pieces = _join(matches, behavior)
        if pieces == [(0, len(self.text))]:
            return [self] if self.text else []
        return [self.slice(at, to) for at, to in pieces if at < to]

    def _put(self, at: int, to: int, text: str, spans: list[Span]) -> Aligned:
        made = self.text[:at] + text + self.text[to:]
        return Aligned(made, [*self.spans[:at], *spans, *self.spans[to:]], self.start, self.end)


def _join(matches: Sequence[Match], behavior: str) -> list[Span]:
    if behavior == "Removed":
        return [(at, to) for at, to, matched in matches if not matched]
    if behavior == "Isolated":
        return [(at, to) for at, to, _ in matches]
    pieces: list[Span] = []
    before = False
    backwards = behavior == "MergedWithNext"
    for at, to, matched in reversed(matches) if backwards else matches:
        joins = matched == before if behavior == "Contiguous" else matched and not before
        if not (joins and pieces):
            pieces.append((at, to))
        elif backwards:
            pieces[-1] = (at, pieces[-1][1])
        else:
            pieces[-1] = (pieces[-1][0], to)
        before = matched
    return pieces[::-1] if backwards else pieces
