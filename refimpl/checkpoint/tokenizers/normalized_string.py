"""A normalized text that stores where each of its characters comes from in the original text.

Offsets of tokens refer to the user's text, not to the normalized text. A transformation is a list of
(character, change). With change 0 the character replaces the next old character. With change 1, the character
is inserted, and shares the span of the character before it. With change −N, the character replaces one old
character, and the N old characters after it are removed. The class equals the `NormalizedString` of the
`tokenizers` library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from ...errors import LimitError

Span: TypeAlias = tuple[int, int]
Match: TypeAlias = tuple[int, int, bool]  # from, to, whether the pattern matched there
BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
MAX_LENGTH = 2**24  # characters that a text may grow to


class NormalizedString:
    """A normalized text that stores where its characters come from in the original text.

    `spans` contains the range of each character in the original. `start` and `end` are the range of the whole
    text in the original."""

    __slots__ = ("end", "spans", "start", "text")

    def __init__(self, text: str, spans: list[Span], start: int, end: int) -> None:
        if len(text) > MAX_LENGTH:
            raise LimitError(
                f"a normalized text may have at most {MAX_LENGTH} characters, but it has {len(text)}"
            )
        self.text, self.spans, self.start, self.end = text, spans, start, end

    @classmethod
    def from_text(cls, text: str) -> NormalizedString:
        """Make a normalized text of the user's text, without any change."""
        return cls(text, [(i, i + 1) for i in range(len(text))], 0, len(text))

    def slice(self, at: int, to: int) -> NormalizedString:
        """Return the part from character `at` to character `to`. The part must not be empty.

        If normalization reordered characters, the range in the original may end before it starts. Then the
        result gets an empty range.
        """
        start, end = self.spans[at][0], self.spans[to - 1][1]
        inside = self.start <= start <= end <= self.end
        return NormalizedString(self.text[at:to], self.spans[at:to], start, end if inside else start)

    def _own_characters(self) -> Span | None:
        """Return the range of the characters that come from this text's own range of the original: nearly
        always all.

        The `tokenizers` library finds the characters to change by their range in the original. If this range
        is empty (see `slice`), the library inserts into the text and replaces nothing. tfm does the same,
        because ids depend on it.
        """
        if self.start == self.end:
            return (0, 0)
        outside = (i for i, span in enumerate(self.spans) if not self.start <= span[1] <= self.end)
        to = next(outside, len(self.spans))
        at = next((i for i in range(to) if self.spans[i][0] != self.spans[i][1]), to)
        return (at, to) if to else None

    def transform(self, changes: Iterable[tuple[str, int]], dropped: int = 0) -> NormalizedString:
        """Apply a transformation to the whole text, after removing its first `dropped` characters."""
        own_range = self._own_characters()
        if own_range is None:
            return self
        at, to = own_range
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
        return self._replace_range(at, to, "".join(text), spans)

    def map(self, change: Callable[[str], str]) -> NormalizedString:
        """Replace each character by the one or more characters that `change` returns for it."""
        return self.transform((new, int(i > 0)) for c in self.text for i, new in enumerate(change(c)))

    def filter(self, keep: Callable[[str], bool]) -> NormalizedString:
        """Remove the characters for which `keep` is false."""
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

    def prepend(self, added: str) -> NormalizedString:
        """Put a prefix before the text. The prefix shares the span of the first character. An empty text
        stays empty.
        """
        if not self.text:
            return self
        return self._replace_range(0, 0, added, [self.spans[0]] * len(added))

    def replace(self, matches: Sequence[Match], content: str) -> NormalizedString:
        """Replace each match by `content`. Its characters get the span of the match's last character."""
        count = sum(matched for _, _, matched in matches)
        if count * len(content) > MAX_LENGTH:
            raise LimitError(f"a normalized text may have at most {MAX_LENGTH} characters")
        text: list[str] = []
        spans: list[Span] = []
        for at, to, matched in matches:
            text.append(content if matched else self.text[at:to])
            spans += [self.spans[to - 1]] * len(content) if matched else self.spans[at:to]
        return NormalizedString("".join(text), spans, self.start, self.end)

    def split(self, matches: Sequence[Match], behavior: str) -> list[NormalizedString]:
        """Split the text at matches, and return the parts that aren't empty. `behavior` says what becomes of
        the matches.
        """
        parts = _split_spans(matches, behavior)
        if parts == [(0, len(self.text))]:
            return [self] if self.text else []
        return [self.slice(at, to) for at, to in parts if at < to]

    def _replace_range(self, at: int, to: int, text: str, spans: list[Span]) -> NormalizedString:
        replaced = self.text[:at] + text + self.text[to:]
        return NormalizedString(replaced, [*self.spans[:at], *spans, *self.spans[to:]], self.start, self.end)


def _split_spans(matches: Sequence[Match], behavior: str) -> list[Span]:
    if behavior == "Removed":
        return [(at, to) for at, to, matched in matches if not matched]
    if behavior == "Isolated":
        return [(at, to) for at, to, _ in matches]
    parts: list[Span] = []
    before = False
    backwards = behavior == "MergedWithNext"
    for at, to, matched in reversed(matches) if backwards else matches:
        joins = matched == before if behavior == "Contiguous" else matched and not before
        if not (joins and parts):
            parts.append((at, to))
        elif backwards:
            parts[-1] = (at, parts[-1][1])
        else:
            parts[-1] = (parts[-1][0], to)
        before = matched
    return parts[::-1] if backwards else parts
