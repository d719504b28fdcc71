"""Unigram language model (Kudo 2018): find the most probable segmentation of a word into pieces.

P(segmentation) = Π p(piece). SentencePiece calls the tokens of the vocabulary pieces. A character that isn't
a piece by itself may be unknown. Its score is then the lowest score of the vocabulary minus 10,
SentencePiece's penalty. Neighbouring unknown characters become one token. With `byte_fallback` they become
byte tokens instead, if the vocabulary has all of these byte tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from ...errors import CheckpointError
from .components import ComponentType, Option, count, flag, nullable
from .lattice import Edge, Lattice
from .vocabulary import MAX_TOKEN_LENGTH, MAX_VOCABULARY, Token, Trie

UNKNOWN_PENALTY = 10.0


@dataclass(frozen=True)
class Unigram:
    """A unigram language model: its pieces with their log-probabilities, in the order of their ids."""

    scored_pieces: Sequence[tuple[str, float]]
    unk_id: int | None
    byte_fallback: bool = False
    vocabulary: dict[str, int] = field(init=False, repr=False)
    trie: Trie = field(init=False, repr=False)
    lowest_score: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        numbered = [(piece, i) for i, (piece, _) in enumerate(self.scored_pieces) if piece]
        object.__setattr__(self, "vocabulary", {piece: i for i, (piece, _) in enumerate(self.scored_pieces)})
        object.__setattr__(self, "trie", Trie(numbered))
        object.__setattr__(self, "lowest_score", min((score for _, score in self.scored_pieces), default=0.0))

    def tokenize(self, word: str) -> list[Token]:
        """Split a word into the tokens of its most probable segmentation, in O(n · longest piece) time."""
        return self.tokens(word, self.lattice(word).viterbi())

    def nbest(self, word: str, n: int) -> list[list[Token]]:
        """Return the tokens of the n most probable segmentations of a word."""
        return [self.tokens(word, path) for path in self.lattice(word).nbest(n)]

    def sample(self, word: str, alpha: float, uniforms: Sequence[float]) -> list[Token]:
        """Sample a segmentation of a word with probability ∝ P^alpha, and return its tokens.

        Each piece uses one number of `uniforms`, which are in [0, 1). The distribution is equation 9 of the
        paper (Kudo 2018). The tokenizers library samples from this distribution only if alpha is 1, because
        it multiplies the sums by alpha again at each piece.
        """
        return self.tokens(word, self.lattice(word).sample(alpha, uniforms))

    def lattice(self, word: str) -> Lattice:
        """Return all segmentations of a word as a lattice."""
        return Lattice(len(word), self._edges(word))

    def _edges(self, word: str) -> Iterator[Edge]:
        for start in range(len(word)):
            single = False
            for end, id in self.trie.prefixes(word, start):
                yield Edge(start, end, id, self.scored_pieces[id][1])
                single = single or end == start + 1
            if not single:
                if self.unk_id is None:
                    raise CheckpointError(
                        "tokenizer.json: model.unk_id must not be null, because no piece has the "
                        f"character {word[start]!r}"
                    )
                yield Edge(start, start + 1, self.unk_id, self.lowest_score - UNKNOWN_PENALTY)

    def tokens(self, word: str, path: Sequence[Edge]) -> list[Token]:
        """Turn a path of a lattice into tokens. Neighbouring unknown characters become one token."""
        spans: list[tuple[int, int, bool]] = []
        for edge in path:
            unknown = edge.id == self.unk_id
            if unknown and spans and spans[-1][2]:
                spans[-1] = (spans[-1][0], edge.end, True)
            else:
                spans.append((edge.start, edge.end, unknown))
        return [
            token for start, end, _ in spans for token in self._tokens_of_span(word[start:end], start, end)
        ]

    def _tokens_of_span(self, piece: str, start: int, end: int) -> list[Token]:
        id = self.vocabulary.get(piece)
        if id is not None:
            return [Token(id, piece, start, end)]
        if self.byte_fallback:
            names = [f"<0x{byte:02X}>" for byte in piece.encode()]
            if all(name in self.vocabulary for name in names):
                return [Token(self.vocabulary[name], name, start, end) for name in names]
        assert self.unk_id is not None
        return [Token(self.unk_id, piece, start, end)]


def _make(vocab: list[tuple[str, float]], unk_id: int | None, byte_fallback: bool) -> Unigram:
    if unk_id is not None and unk_id >= len(vocab):
        raise CheckpointError(f"model.unk_id must be below the number of pieces ({len(vocab)}), got {unk_id}")
    return Unigram(vocab, unk_id, byte_fallback)


def _read_scored_pieces(value: Any, where: str) -> list[tuple[str, float]]:
    """Read the pieces with their scores: `[[piece, score], …]`."""
    if not isinstance(value, list) or len(value) > MAX_VOCABULARY:
        raise CheckpointError(f"{where} must be a list of at most {MAX_VOCABULARY} pieces and scores")
    pieces: list[tuple[str, float]] = []
    for item in value:
        match item:
            case [str(piece), int() | float() as score] if isfinite(score) and len(piece) <= MAX_TOKEN_LENGTH:
                pieces.append((piece, float(score)))
            case _:
                raise CheckpointError(
                    f"{where}[{len(pieces)}] must be a piece of at most {MAX_TOKEN_LENGTH} characters and "
                    f"its score, got {item!r:.60}"
                )
    return pieces


COMPONENT_TYPE = ComponentType(
    _make,
    {
        "vocab": Option(_read_scored_pieces),
        "unk_id": Option(nullable(count), None),
        "byte_fallback": Option(flag, False),
    },
)
