"""The added tokens of a tokenizer. Tokens that settings add get the same ids as in the `tokenizers`
library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....errors import CheckpointError
from ..components import flag
from ..vocabulary import MAX_TOKEN_LENGTH

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class NewToken:
    """A token to add, which has no id yet. A `normalized` of None means that the token is found in the
    normalized text unless it is special.
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool | None = None
    special: bool = False

    def __str__(self) -> str:
        return self.content


def read_new_token(value: Any, where: str) -> NewToken:
    """Read a token as a tokenizer's files write it: an object with `content` and some of the flags. Raises
    CheckpointError for anything else.
    """
    if not isinstance(value, dict) or value.keys() - {"content", *FLAGS}:
        raise CheckpointError(f"{where} must be an object of content, {', '.join(FLAGS)}, got {value!r:.120}")
    content = value.get("content")
    if not isinstance(content, str) or len(content) > MAX_TOKEN_LENGTH:
        raise CheckpointError(
            f"{where}.content must be a text of at most {MAX_TOKEN_LENGTH} characters, got {content!r:.60}"
        )
    return NewToken(
        content, **{name: flag(value[name], f"{where}.{name}") for name in FLAGS if name in value}
    )


def read_stated_tokens(definition: Mapping[str, Any], where: str) -> list[tuple[int, NewToken]]:
    """Read the `added_tokens` of a tokenizer.json. Return each token with the id that the file states."""
    stated = definition.get("added_tokens", [])
    if not isinstance(stated, list):
        raise CheckpointError(f"{where}: added_tokens must be a list, got {stated!r:.60}")
    tokens: list[tuple[int, NewToken]] = []
    for i, item in enumerate(stated):
        place = f"{where}: added_tokens[{i}]"
        id = item.get("id") if isinstance(item, dict) else None
        if type(id) is not int:
            raise CheckpointError(f"{place} must be an object with an id, got {item!r:.80}")
        tokens.append((id, read_new_token({k: v for k, v in item.items() if k != "id"}, place)))
    return tokens


class AddedVocabulary:
    """The added tokens of a tokenizer, beside its model's vocabulary of `size` tokens.

    A token that is added again keeps its id and gets the new flags, except that a special token stays
    special. A new token gets the model's id if the model has the token, otherwise the next free id.
    """

    def __init__(self, model_vocabulary: Mapping[str, int], size: int) -> None:
        self._model_vocabulary = model_vocabulary
        self._next_id = size
        self._tokens: dict[str, tuple[int, NewToken]] = {}
        self._special: set[str] = set()

    def __contains__(self, content: object) -> bool:
        return content in self._tokens

    def add(self, token: NewToken) -> None:
        """Add a token. An empty token is ignored, as in the `tokenizers` library."""
        if not token.content:
            return
        id = self.id(token.content)
        if id is None:
            id = self._next_id
            self._next_id += 1
        if token.special:
            self._special.add(token.content)
        self._tokens[token.content] = (id, token)

    def id(self, content: str) -> int | None:
        """Return the id of a token, or None if neither the model nor the added tokens have the token."""
        if content in self._tokens:
            return self._tokens[content][0]
        return self._model_vocabulary.get(content)

    def model_id(self, content: str) -> int | None:
        """Return the id of a token in the model's vocabulary, or None if the model doesn't have the token."""
        return self._model_vocabulary.get(content)

    def as_json(self) -> list[dict[str, Any]]:
        """Return the `added_tokens` of a tokenizer.json, sorted by id."""
        listed: list[dict[str, Any]] = []
        for id, token in sorted(self._tokens.values(), key=lambda entry: entry[0]):
            normalized = not token.special if token.normalized is None else token.normalized
            listed.append(
                {
                    "id": id,
                    "content": token.content,
                    "single_word": token.single_word,
                    "lstrip": token.lstrip,
                    "rstrip": token.rstrip,
                    "normalized": normalized,
                    "special": token.content in self._special,
                }
            )
        return listed


def read_vocabulary_of(definition: Mapping[str, Any], where: str) -> AddedVocabulary:
    """Return the vocabulary of the model in a tokenizer.json, as an AddedVocabulary without added tokens."""
    model = definition.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):
        pieces = [
            item[0]
            for item in vocabulary
            if isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str)
        ]
        if len(pieces) == len(vocabulary):
            return AddedVocabulary({piece: id for id, piece in enumerate(pieces)}, len(pieces))
    if isinstance(vocabulary, dict):
        for token, id in vocabulary.items():
            if type(id) is not int or id < 0:
                raise CheckpointError(f"{where}: {token!r:.60} must have an id from 0, got {id!r:.40}")
        return AddedVocabulary(vocabulary, len(vocabulary))
    raise CheckpointError(f"{where}: model.vocab must be an object, or a list of pieces and scores")
