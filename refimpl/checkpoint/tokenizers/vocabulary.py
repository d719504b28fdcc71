"""What the tokenizer's models share: tokens, the reader of a vocabulary, and a trie of its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ...errors import CheckpointError

MAX_TOKEN_LENGTH = 1024  # characters; the time to find tokens in a text grows with the longest
MAX_VOCABULARY = 2**22


class Token(NamedTuple):
    """A token of a word: its id, its string, and the range of the word's characters that it covers."""

    id: int
    value: str
    start: int
    end: int


class Trie:
    """A prefix tree of tokens. It finds all tokens that begin at a position of a text in one walk."""

    def __init__(self, tokens: Iterable[tuple[str, int]]) -> None:
        self._root: dict[str, Any] = {}
        for token, id in tokens:
            node = self._root
            for character in token:
                node = node.setdefault(character, {})
            node[""] = id

    def prefixes(self, text: str, start: int) -> Iterator[tuple[int, int]]:
        """Yield (end, id) of each token that begins at `start` of a text, the shortest token first."""
        node = self._root
        for end in range(start, len(text)):
            child = node.get(text[end])
            if child is None:
                return
            node = child
            if "" in node:
                yield end + 1, node[""]

    def longest(self, text: str, start: int) -> tuple[int, int] | None:
        """Return (end, id) of the longest token that begins at `start` of a text, or None if there is no such
        token.
        """
        return max(self.prefixes(text, start), default=None)


def read_vocabulary(value: Any, where: str) -> dict[str, int]:
    """Read a vocabulary `{token: id}`. Raises CheckpointError if two tokens have the same id."""
    if not isinstance(value, dict) or len(value) > MAX_VOCABULARY:
        raise CheckpointError(f"{where} must be an object of at most {MAX_VOCABULARY} tokens and ids")
    tokens: dict[int, str] = {}
    for token, id in value.items():
        if type(id) is not int or not 0 <= id < 2**32:
            raise CheckpointError(f"{where}: {token!r:.60} must have an id from 0, got {id!r:.40}")
        if len(token) > MAX_TOKEN_LENGTH:
            raise CheckpointError(
                f"{where}: a token may have at most {MAX_TOKEN_LENGTH} characters, got {token!r:.40}"
            )
        if id in tokens:
            raise CheckpointError(f"{where}: {tokens[id]!r:.40} and {token!r:.40} must have different ids")
        tokens[id] = token
    return value
