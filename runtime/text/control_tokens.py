"""Encodings with offsets, and a tokenizer in which a user's text can't produce control tokens."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import tokenizers

from ...refimpl.errors import LimitError

SEPARATOR_ID = -1  # stands for the separator, which is no token of the model


@dataclass(frozen=True)
class Encoding:
    """The tokens of one text or of a pair of texts. The fields have the names of the `tokenizers` library.

    - `offsets`: the characters (from, to) that each token stands for.
    - `word_ids`: the number of each token's word in its text.
    - `type_ids`: the segment number of each token, which the model reads.
    - `sequence_ids`: the number of the text that each token belongs to, 0 or 1.

    For tokens that the post-processor adds, `word_ids` and `sequence_ids` are None.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]
    word_ids: list[int | None]
    type_ids: list[int]
    sequence_ids: list[int | None]

    @staticmethod
    def empty() -> Encoding:
        return Encoding([], [], [], [], [])

    @staticmethod
    def of_text(
        ids: list[int],
        offsets: list[tuple[int, int]],
        word_ids: list[int | None],
        sequence: int,
        type_id: int,
    ) -> Encoding:
        """Return the encoding of one text. All tokens get the text number `sequence` and the segment number
        `type_id`.
        """
        return Encoding(ids, offsets, word_ids, [type_id] * len(ids), [sequence] * len(ids))

    def extend(self, other: Encoding) -> None:
        """Append the tokens of another encoding."""
        self.ids.extend(other.ids)
        self.offsets.extend(other.offsets)
        self.word_ids.extend(other.word_ids)
        self.type_ids.extend(other.type_ids)
        self.sequence_ids.extend(other.sequence_ids)

    def select(self, indices: Sequence[int]) -> Encoding:
        """Return the tokens at these indices."""
        return Encoding(
            [self.ids[i] for i in indices],
            [self.offsets[i] for i in indices],
            [self.word_ids[i] for i in indices],
            [self.type_ids[i] for i in indices],
            [self.sequence_ids[i] for i in indices],
        )

    def with_source(self, sequence: int, type_id: int) -> Encoding:
        """Return the same tokens, now belonging to the text with number `sequence` and to segment
        `type_id`.
        """
        return Encoding.of_text(self.ids, self.offsets, self.word_ids, sequence, type_id)


class SecretSpelling:
    """A copy of a tokenizer that spells control tokens in a way that nobody can guess.

    A user's text goes through the usual normalizer, pre-tokenizer and model, but a "<|im_end|>" in it is
    treated as plain characters. A tokenizer's model may itself merge characters into a control token, for
    example with a SentencePiece vocabulary. A separator between the characters prevents such a merge.
    """

    def __init__(
        self,
        tokenizer_json: str,
        control_tokens: dict[str, int],
        convert_errors: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        secret = os.urandom(8).hex()
        self._control_tokens = control_tokens
        self._convert_errors = convert_errors
        self._spelling = {token: f"\ue000{secret}.{i}\ue001" for i, token in enumerate(control_tokens)}
        self._separator = f"\ue000{secret}\ue001"
        with convert_errors("can't be used"):
            definition: dict[str, Any] = json.loads(tokenizer_json)
            for token in definition.setdefault("added_tokens", []):
                if token["content"] in control_tokens:
                    token["content"] = self._spelling[token["content"]]
                    token["normalized"] = False
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(definition))
            self._tokenizer.add_special_tokens([self._separator])
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            spelled = {self._spelling[token]: control_tokens[token] for token in control_tokens}
            # The spellings aren't in the vocabulary, so the library gives all added tokens new ids.
            self._original_ids: dict[Any, Any] = {}  # ids that the library gives -> ids of tokenizer.json
            for token in definition["added_tokens"]:
                new_id = self._tokenizer.token_to_id(token["content"])
                self._original_ids[new_id] = spelled.get(token["content"], token["id"])
            self._original_ids[self._tokenizer.token_to_id(self._separator)] = SEPARATOR_ID
        longest_first = sorted(control_tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def encode(self, parts: Sequence[tuple[str, bool]]) -> Encoding:
        """Return the tokens of the joined parts, with offsets in the joined text.

        A part is a pair: a text, and whether names of control tokens in it become control tokens.
        """
        text, spans = self._spell(parts)
        control_ids = set(self._control_tokens.values())
        while True:
            with self._convert_errors("can't encode"):
                encoded = self._tokenizer.encode(text, add_special_tokens=False)
                tokens = list(zip(encoded.ids, encoded.offsets, encoded.word_ids, strict=True))
            merged = [
                offsets for id, offsets, _ in tokens if id in control_ids and id not in self._original_ids
            ]
            if not merged:
                break
            for start, end in reversed(merged):
                if end - start < 2:
                    raise LimitError(
                        f"the text must not contain the control token {text[start:end]!r}, because the "
                        "tokenizer has no other tokens for these characters"
                    )
                # After the first character, at no character of the original text.
                boundary = spans[start][1]
                text = text[: start + 1] + self._separator + text[start + 1 :]
                spans[start + 1 : start + 1] = [(boundary, boundary)] * len(self._separator)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        word_ids: list[int | None] = []
        for id, (start, end), word_id in tokens:
            original = self._original_ids.get(id, id)
            if original == SEPARATOR_ID:
                continue
            ids.append(original)
            offsets.append((spans[start][0], spans[max(end - 1, start)][1]))
            word_ids.append(word_id)
        return Encoding.of_text(ids, offsets, word_ids, 0, 0)

    def _spell(self, parts: Sequence[tuple[str, bool]]) -> tuple[str, list[tuple[int, int]]]:
        """Return the joined text with secret spellings, and for each of its characters the span in the
        original text.
        """
        text = ""
        spans: list[tuple[int, int]] = []
        start = 0  # of the part in the joined original
        for part, has_control_tokens in parts:
            done = 0
            for match in self._pattern.finditer(part) if has_control_tokens else ():
                spelling = self._spelling[match[0]]
                text += part[done : match.start()] + spelling
                spans += [(start + i, start + i + 1) for i in range(done, match.start())]
                spans += [(start + match.start(), start + match.end())] * len(spelling)
                done = match.end()
            text += part[done:]
            spans += [(start + i, start + i + 1) for i in range(done, len(part))]
            start += len(part)
        return text, [*spans, (start, start)]
