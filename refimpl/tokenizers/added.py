"""Added tokens: found in a text before anything else happens to it, and kept whole.

Those that aren't normalized are looked for in the text as it is, the others, normalized themselves,
in the normalized rest. Of those that begin at a place the longest is taken, from left to right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import CheckpointError
from .aligned import Aligned
from .characters import is_space, is_word
from .options import count, flag
from .pieces import LONGEST_PIECE, VOCABULARY, Trie

Found: TypeAlias = tuple[Aligned, int | None]  # a piece of text, and the token that it is
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class AddedToken:
    """A token and how it is found: alone as a word, with the white space to its left or right,
    in the normalized text. A special one is left out by `decode`."""

    id: int
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


def read_added(value: Any, vocabulary: dict[str, int], size: int) -> list[AddedToken]:
    """The added tokens of a file, whose model has `size` pieces.

    The library numbers them itself, by the model's vocabulary and then one after the other; a file
    that says otherwise is refused.
    """
    if not isinstance(value, list) or len(value) > VOCABULARY:
        raise CheckpointError(f"added_tokens must be a list of at most {VOCABULARY} tokens")
    made: dict[str, AddedToken] = {}
    following = size
    for i, item in enumerate(value):
        token = _read(item, f"added_tokens[{i}]")
        if token.content in made:
            raise CheckpointError(f"added_tokens[{i}]: {token.content!r:.60} must stand once")
        expected = vocabulary.get(token.content, following)
        following += expected == following and token.content not in vocabulary
        if token.id != expected:
            raise CheckpointError(
                f"added_tokens[{i}]: the id of {token.content!r:.60} must be {expected}, got {token.id}"
            )
        made[token.content] = token
    return list(made.values())


def _read(item: Any, where: str) -> AddedToken:
    keys = {"id", "content", *FLAGS}
    if not isinstance(item, dict) or item.keys() != keys:
        raise CheckpointError(f"{where} must have {', '.join(sorted(keys))}, got {item!r:.120}")
    content = item["content"]
    if not isinstance(content, str) or not 1 <= len(content) <= LONGEST_PIECE:
        raise CheckpointError(f"{where}.content must be a text that isn't empty, got {content!r:.60}")
    flags = {name: flag(item[name], f"{where}.{name}") for name in FLAGS}
    return AddedToken(count(item["id"], f"{where}.id"), content, **flags)


class Finder:
    """Cuts texts at tokens. `spelled` says how a token looks in the texts that it is looked for in."""

    def __init__(self, tokens: Sequence[AddedToken], spelled: Callable[[str], str] = str) -> None:
        found = [(spelled(token.content), i) for i, token in enumerate(tokens)]
        texts = [text for text, _ in found]
        if "" in texts or len(set(texts)) < len(texts):
            twice = next(t for t in texts if not t or texts.count(t) > 1)
            raise CheckpointError(f"added_tokens: normalized, {twice!r:.60} must be one token's alone")
        self._tokens = tokens
        self._trie = Trie(found)
        firsts = "".join(re.escape(text) for text in sorted({text[0] for text in texts}))
        self._first = re.compile(f"[{firsts}]" if firsts else "(?!)")

    def cut(self, piece: Aligned) -> list[Found]:
        """The pieces that are tokens and those between."""
        text = piece.text
        parts: list[Found] = []
        last = 0
        for start, end, token in self._matches(text):
            if token.single_word and (
                (start > 0 and is_word(text[start - 1])) or (end < len(text) and is_word(text[end]))
            ):
                continue
            if token.lstrip:
                begin = start
                while begin > 0 and is_space(text[begin - 1]):
                    begin -= 1
                start = max(begin, last)
            if token.rstrip:
                while end < len(text) and is_space(text[end]):
                    end += 1
            if last < start:
                parts.append((piece.slice(last, start), None))
            parts.append((piece.slice(start, end), token.id))
            last = end
        if last < len(text):
            parts.append((piece.slice(last, len(text)) if last else piece, None))
        return parts

    def _matches(self, text: str) -> list[tuple[int, int, AddedToken]]:
        found: list[tuple[int, int, AddedToken]] = []
        at = 0
        while (first := self._first.search(text, at)) is not None:
            match = self._trie.longest(text, first.start())
            if match is None:
                at = first.end()
                continue
            at, number = match
            found.append((first.start(), at, self._tokens[number]))
        return found
