"""WordPiece (Wu et al. 2016), in BERT's form: repeatedly take the longest token that the rest of a word
begins with.

A token that doesn't begin a word has a prefix ("##"). A word that can't be split to its end, or has more than
`max_input_chars_per_word` characters, becomes the unknown token as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import CheckpointError
from .components import ComponentType, Option, count, text
from .vocabulary import Token, read_vocabulary


@dataclass(frozen=True)
class WordPiece:
    """A WordPiece model: a vocabulary, the unknown token, and the prefix of tokens that continue a word."""

    vocabulary: Mapping[str, int]
    unk_token: str
    continuing_subword_prefix: str
    max_input_chars_per_word: int
    max_token_length: int

    def tokenize(self, word: str) -> list[Token]:
        """Split a word into tokens. A word that can't be split becomes the unknown token."""
        tokens: list[Token] = []
        if len(word) > self.max_input_chars_per_word:
            return self._unknown(word)
        while (start := tokens[-1].end if tokens else 0) < len(word):
            prefix = self.continuing_subword_prefix if start else ""
            for end in range(min(len(word), start + self.max_token_length), start, -1):
                token = prefix + word[start:end]
                if token in self.vocabulary:
                    tokens.append(Token(self.vocabulary[token], token, start, end))
                    break
            else:
                return self._unknown(word)
        return tokens

    def _unknown(self, word: str) -> list[Token]:
        if self.unk_token not in self.vocabulary:
            raise CheckpointError(f"model.unk_token {self.unk_token!r:.60} must be in the vocabulary")
        return [Token(self.vocabulary[self.unk_token], self.unk_token, 0, len(word))]


def _make(
    vocab: dict[str, int], unk_token: str, continuing_subword_prefix: str, max_input_chars_per_word: int
) -> WordPiece:
    """Build a WordPiece model from the options in tokenizer.json."""
    max_token_length = max(map(len, vocab), default=0)
    return WordPiece(vocab, unk_token, continuing_subword_prefix, max_input_chars_per_word, max_token_length)


COMPONENT_TYPE = ComponentType(
    _make,
    {
        "unk_token": Option(text),
        "continuing_subword_prefix": Option(text),
        "max_input_chars_per_word": Option(count),
        "vocab": Option(read_vocabulary),
    },
)
