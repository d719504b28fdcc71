"""What models share: tokens, reading a vocabulary, and a trie of its pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..errors import CheckpointError

LONGEST_PIECE = 1024  # characters: the work of finding pieces in a text grows with the longest
VOCABULARY = 2**22


class Token(NamedTuple):
    """A piece of a word, and the characters of the word that it stands for."""

    id: int
    piece: str
    start: int
    end: int


class Trie:
    """Pieces by their characters: finding those that begin at a place takes steps, not comparisons."""

    def __init__(self, pieces: Iterable[tuple[str, int]]) -> None:
        self._root: dict[str, Any] = {}
        for piece, number in pieces:
            node = self._root
            for character in piece:
                node = node.setdefault(character, {})
            node[""] = number

    def prefixes(self, text: str, at: int) -> Iterator[tuple[int, int]]:
        """(end, number) of each piece that stands at `at`, the shortest first."""
        node = self._root
        for end in range(at, len(text)):
            found = node.get(text[end])
            if found is None:
                return
            node = found
            if "" in node:
                yield end + 1, node[""]

    def longest(self, text: str, at: int) -> tuple[int, int] | None:
        """(end, number) of the longest piece that stands at `at`."""
        return max(self.prefixes(text, at), default=None)


def read_vocabulary(value: Any, where: str) -> dict[str, int]:
    """`{piece: id}` with ids that differ."""
    if not isinstance(value, dict) or len(value) > VOCABULARY:
        raise CheckpointError(f"{where} must be an object of at most {VOCABULARY} pieces and ids")
    seen: dict[int, str] = {}
    for piece, number in value.items():
        if type(number) is not int or not 0 <= number < 2**32:
            raise CheckpointError(f"{where}: {piece!r:.60} must have a number from 0, got {number!r:.40}")
        if len(piece) > LONGEST_PIECE:
            raise CheckpointError(f"{where}: a piece may have {LONGEST_PIECE} characters, got {piece!r:.40}")
        if number in seen:
            raise CheckpointError(f"{where}: {seen[number]!r:.40} and {piece!r:.40} must have two ids")
        seen[number] = piece
    return value
