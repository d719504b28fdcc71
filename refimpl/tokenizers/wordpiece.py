"""WordPiece (Wu et al. 2016; BERT's form): the longest piece that begins the rest, until none is left.

A piece within a word carries a prefix ("##"). A word that can't be spelled to its end, or of more
than `max_input_chars_per_word` characters, is unknown as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import CheckpointError
from .options import Kind, Option, count, text
from .pieces import Token, read_vocabulary


@dataclass(frozen=True)
class WordPiece:
    """A vocabulary and what its pieces look like."""

    vocabulary: Mapping[str, int]
    unk_token: str
    continuing_subword_prefix: str
    max_input_chars_per_word: int
    longest: int

    def tokenize(self, word: str) -> list[Token]:
        """The tokens of a word."""
        found: list[Token] = []
        if len(word) > self.max_input_chars_per_word:
            return self._unknown(word)
        while (start := found[-1].end if found else 0) < len(word):
            prefix = self.continuing_subword_prefix if start else ""
            for end in range(min(len(word), start + self.longest), start, -1):
                piece = prefix + word[start:end]
                if piece in self.vocabulary:
                    found.append(Token(self.vocabulary[piece], piece, start, end))
                    break
            else:
                return self._unknown(word)
        return found

    def _unknown(self, word: str) -> list[Token]:
        if self.unk_token not in self.vocabulary:
            raise CheckpointError(f"model.unk_token {self.unk_token!r:.60} must be in the vocabulary")
        return [Token(self.vocabulary[self.unk_token], self.unk_token, 0, len(word))]


def make(
    vocab: dict[str, int], unk_token: str, continuing_subword_prefix: str, max_input_chars_per_word: int
) -> WordPiece:
    """The model of a vocabulary."""
    longest = max(map(len, vocab), default=0)
    return WordPiece(vocab, unk_token, continuing_subword_prefix, max_input_chars_per_word, longest)


KIND = Kind(
    make,
    {
        "unk_token": Option(text),
        "continuing_subword_prefix": Option(text),
        "max_input_chars_per_word": Option(count),
        "vocab": Option(read_vocabulary),
    },
)
