"""Find added tokens in a text before any other step, and keep each of them whole.

Tokens with `normalized` false are searched for in the original text. The other tokens are normalized
themselves, and searched for in the normalized rest of the text. The search goes from left to right and takes
the longest token at each position.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...errors import CheckpointError
from .character_classes import is_space, is_word
from .components import count, flag
from .normalized_string import NormalizedString
from .vocabulary import MAX_TOKEN_LENGTH, MAX_VOCABULARY, Trie

Part: TypeAlias = tuple[NormalizedString, int | None]  # a part of a text, and its id if it is a token
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class AddedToken:
    """An added token of a tokenizer.json, and how it is found in a text.

    `single_word` means that the token is found only as a whole word. `lstrip` and `rstrip` mean that the
    token includes the white space to its left or right. `normalized` means that it is searched for in the
    normalized text. `decode` can leave out tokens that are `special`.
    """

    id: int
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


def read_added_tokens(value: Any, vocabulary: dict[str, int], size: int) -> list[AddedToken]:
    """Read the added tokens of a tokenizer.json. `size` is the number of tokens of its model.

    The `tokenizers` library assigns the ids itself. A token of the model's vocabulary gets the model's id,
    and any other token gets the next free id. Raises CheckpointError for a file that states other ids.
    """
    if not isinstance(value, list) or len(value) > MAX_VOCABULARY:
        raise CheckpointError(f"added_tokens must be a list of at most {MAX_VOCABULARY} tokens")
    tokens: dict[str, AddedToken] = {}
    next_id = size
    for i, item in enumerate(value):
        token = _read_token(item, f"added_tokens[{i}]")
        if token.content in tokens:
            raise CheckpointError(f"added_tokens[{i}]: {token.content!r:.60} must occur only once")
        expected = vocabulary.get(token.content, next_id)
        if token.content not in vocabulary:
            next_id += 1
        if token.id != expected:
            raise CheckpointError(
                f"added_tokens[{i}]: the id of {token.content!r:.60} must be {expected}, got {token.id}"
            )
        tokens[token.content] = token
    return list(tokens.values())


def _read_token(item: Any, where: str) -> AddedToken:
    keys = {"id", "content", *FLAGS}
    if not isinstance(item, dict) or item.keys() != keys:
        raise CheckpointError(
            f"{where} must be an object with exactly the keys {', '.join(sorted(keys))}, got {item!r:.120}"
        )
    content = item["content"]
    if not isinstance(content, str) or not 1 <= len(content) <= MAX_TOKEN_LENGTH:
        raise CheckpointError(f"{where}.content must be a text that isn't empty, got {content!r:.60}")
    flags = {name: flag(item[name], f"{where}.{name}") for name in FLAGS}
    return AddedToken(count(item["id"], f"{where}.id"), content, **flags)


class AddedTokenSplitter:
    """Splits texts at added tokens. `normalize` is the tokenizer's normalizer; it is also applied to the
    tokens.
    """

    def __init__(self, tokens: Sequence[AddedToken], normalize: Callable[[str], str] = str) -> None:
        texts = [normalize(token.content) for token in tokens]
        if "" in texts or len(set(texts)) < len(texts):
            duplicate = next(text for text in texts if not text or texts.count(text) > 1)
            raise CheckpointError(
                f"added_tokens: two tokens must not have the same normalized form, got {duplicate!r:.60}"
            )
        self._tokens = tokens
        self._trie = Trie((text, i) for i, text in enumerate(texts))
        first_characters = "".join(re.escape(c) for c in sorted({text[0] for text in texts}))
        self._first_character = re.compile(f"[{first_characters}]" if first_characters else "(?!)")

    def split(self, string: NormalizedString) -> list[Part]:
        """Split a text into the added tokens that it contains and the parts between them, in order."""
        text = string.text
        parts: list[Part] = []
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
                parts.append((string.slice(last, start), None))
            parts.append((string.slice(start, end), token.id))
            last = end
        if last < len(text):
            parts.append((string.slice(last, len(text)), None))
        return parts

    def _matches(self, text: str) -> list[tuple[int, int, AddedToken]]:
        matches: list[tuple[int, int, AddedToken]] = []
        position = 0
        while (first := self._first_character.search(text, position)) is not None:
            match = self._trie.longest(text, first.start())
            if match is None:
                position = first.end()
                continue
            position, index = match
            matches.append((first.start(), position, self._tokens[index]))
        return matches
