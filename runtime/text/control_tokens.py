"""Tokens of a text with their places in it, and how a user's text is kept free of control tokens."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import tokenizers

from ...refimpl.errors import LimitError

APART = -1  # keeps characters apart, and is no token


@dataclass(frozen=True)
class Encoding:
    """Tokens: their ids, the characters (from, to) that they stand for, the word of each, counted in its
    text, the segment that the model is told, and the text, 0 or 1. What was put around texts has no word and
    no text."""

    ids: list[int]
    spans: list[tuple[int, int]]
    words: list[int | None]
    types: list[int]
    texts: list[int | None]

    @staticmethod
    def made(ids: list[int], spans: list[tuple[int, int]], words: list[int | None]) -> Encoding:
        return Encoding(ids, spans, words, [], [])

    def of(self, text: int, segment: int) -> Encoding:
        """The same tokens, as those of a text and a segment."""
        count = len(self.ids)
        return Encoding(self.ids, self.spans, self.words, [segment] * count, [text] * count)

    def extend(self, other: Encoding) -> None:
        for mine, theirs in zip(self.fields, other.fields, strict=True):
            mine.extend(theirs)

    def take(self, places: Sequence[int]) -> Encoding:
        """The tokens at the given places."""
        return Encoding(*([field[i] for i in places] for field in self.fields))

    @property
    def fields(self) -> tuple[list[Any], ...]:
        return self.ids, self.spans, self.words, self.types, self.texts


class Respelled:
    """The same tokenizer, but its control tokens are spelled in a way that nobody can guess.

    A text of a user then goes through the same normalizer, pre-tokenizer and model as ever, and a
    "<|im_end|>" in it is just characters. Where the model itself merges characters to a control
    token, as a vocabulary from SentencePiece may, the characters are kept apart.
    """

    def __init__(
        self, text: str, control: dict[str, int], guarded: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        secret = secrets.token_hex(8)
        self._control, self._guarded = control, guarded
        self._spelling = {content: f"\ue000{secret}.{i}\ue001" for i, content in enumerate(control)}
        self._apart = f"\ue000{secret}\ue001"
        with guarded("can't be used"):
            plan: dict[str, Any] = json.loads(text)
            for token in plan.setdefault("added_tokens", []):
                if token["content"] in control:
                    token |= {"content": self._spelling[token["content"]], "normalized": False}
            self._made = tokenizers.Tokenizer.from_str(json.dumps(plan))
            self._made.add_special_tokens([self._apart])
            self._made.no_padding()
            self._made.no_truncation()
            renamed = {s: control[content] for content, s in self._spelling.items()}
            # Spellings aren't in the vocabulary, so the library numbers all added tokens anew.
            self._ids: dict[Any, Any] = {
                self._made.token_to_id(token["content"]): renamed.get(token["content"], token["id"])
                for token in plan["added_tokens"]
            }
            self._ids[self._made.token_to_id(self._apart)] = APART
        names = sorted(control, key=len, reverse=True)
        self._find = re.compile("|".join(map(re.escape, names)) or "(?!)")

    def encode(self, pieces: Sequence[tuple[str, bool]]) -> Encoding:
        """Tokens of joined pieces (text, meant), their spans in what was joined."""
        text, spans = self._spell(pieces)
        forbidden = set(self._control.values())
        while True:
            with self._guarded("can't encode"):
                made = self._made.encode(text, add_special_tokens=False)
                tokens = list(zip(made.ids, made.offsets, made.word_ids, strict=True))
            merged = [at for number, at, _ in tokens if number in forbidden and number not in self._ids]
            if not merged:
                break
            for begin, end in reversed(merged):
                if end - begin < 2:
                    raise LimitError(
                        f"the text holds a control token that can't be spelled: {text[begin:end]!r}"
                    )
                cut, border = begin + 1, spans[begin][1]
                text = text[:cut] + self._apart + text[cut:]
                spans[cut:cut] = [(border, border)] * len(self._apart)
        found = Encoding.made([], [], [])
        for number, (begin, end), word in tokens:
            if (own := self._ids.get(number, number)) != APART:
                found.ids.append(own)
                found.spans.append((spans[begin][0], spans[max(end - 1, begin)][1]))
                found.words.append(word)
        return found

    def _spell(self, pieces: Sequence[tuple[str, bool]]) -> tuple[str, list[tuple[int, int]]]:
        """The joined text, control tokens that are meant respelled; of each character its span before."""
        made, spans, at = "", [], 0
        for piece, meant in pieces:
            done = 0
            for found in self._find.finditer(piece) if meant else ():
                spelling = self._spelling[found[0]]
                made += piece[done : found.start()] + spelling
                spans += [(at + i, at + i + 1) for i in range(done, found.start())]
                spans += [(at + found.start(), at + found.end())] * len(spelling)
                done = found.end()
            made += piece[done:]
            spans += [(at + i, at + i + 1) for i in range(done, len(piece))]
            at += len(piece)
        return made, [*spans, (at, at)]
