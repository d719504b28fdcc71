"""Unigram language model (Kudo 2018): of all ways to cut a word, the most probable.

P(way) = Π p(piece). A character that no piece of its own stands for may be unknown, at the least score
of the vocabulary less 10, SentencePiece's penalty. Neighbouring unknowns are one token; with
`byte_fallback` they are spelled in bytes instead, if the vocabulary has them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from ..errors import CheckpointError
from .lattice import Edge, Lattice
from .options import Kind, Option, count, flag, nullable
from .pieces import LONGEST_PIECE, VOCABULARY, Token, Trie

UNKNOWN_PENALTY = 10.0


@dataclass(frozen=True)
class Unigram:
    """Pieces with their log-probabilities, by id."""

    scored: Sequence[tuple[str, float]]
    unk_id: int | None
    byte_fallback: bool = False
    vocabulary: dict[str, int] = field(init=False, repr=False)
    trie: Trie = field(init=False, repr=False)
    least: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        numbered = [(piece, i) for i, (piece, _) in enumerate(self.scored) if piece]
        object.__setattr__(self, "vocabulary", {piece: i for i, (piece, _) in enumerate(self.scored)})
        object.__setattr__(self, "trie", Trie(numbered))
        object.__setattr__(self, "least", min((score for _, score in self.scored), default=0.0))

    def tokenize(self, word: str) -> list[Token]:
        """The tokens of the best way, in O(n · longest piece)."""
        return self.tokens(word, self.lattice(word).viterbi())

    def nbest(self, word: str, n: int) -> list[list[Token]]:
        """The tokens of the n best ways."""
        return [self.tokens(word, way) for way in self.lattice(word).nbest(n)]

    def sample(self, word: str, alpha: float, uniforms: Sequence[float]) -> list[Token]:
        """The tokens of a way drawn with probability ∝ P(way)^alpha; a uniform number for each piece.

        The library's own sampling multiplies sums by alpha once more at each piece, which is this
        distribution at alpha 1 alone; the paper's is meant here.
        """
        return self.tokens(word, self.lattice(word).sample(alpha, uniforms))

    def lattice(self, word: str) -> Lattice:
        """All ways to cut a word."""
        return Lattice(len(word), self._edges(word))

    def _edges(self, word: str) -> Iterator[Edge]:
        for start in range(len(word)):
            single = False
            for end, number in self.trie.prefixes(word, start):
                yield Edge(start, end, number, self.scored[number][1])
                single = single or end == start + 1
            if not single:
                if self.unk_id is None:
                    raise CheckpointError(f"tokenizer.json: unk_id must be there, {word[start]!r} is unknown")
                yield Edge(start, start + 1, self.unk_id, self.least - UNKNOWN_PENALTY)

    def tokens(self, word: str, way: Sequence[Edge]) -> list[Token]:
        """The tokens of a way, its unknown neighbours joined."""
        spans: list[tuple[int, int, bool]] = []
        for edge in way:
            unknown = edge.id == self.unk_id
            if unknown and spans and spans[-1][2]:
                spans[-1] = (spans[-1][0], edge.end, True)
            else:
                spans.append((edge.start, edge.end, unknown))
        return [token for start, end, _ in spans for token in self._named(word[start:end], start, end)]

    def _named(self, piece: str, start: int, end: int) -> list[Token]:
        number = self.vocabulary.get(piece)
        if number is not None:
            return [Token(number, piece, start, end)]
        if self.byte_fallback:
            names = [f"<0x{byte:02X}>" for byte in piece.encode()]
            if all(name in self.vocabulary for name in names):
                return [Token(self.vocabulary[name], name, start, end) for name in names]
        assert self.unk_id is not None
        return [Token(self.unk_id, piece, start, end)]


def _make(vocab: list[tuple[str, float]], unk_id: int | None, byte_fallback: bool) -> Unigram:
    if unk_id is not None and unk_id >= len(vocab):
        raise CheckpointError(f"model.unk_id must be below {len(vocab)}, the pieces, got {unk_id}")
    return Unigram(vocab, unk_id, byte_fallback)


def _read_scored(value: Any, where: str) -> list[tuple[str, float]]:
    """`[[piece, score], …]`."""
    if not isinstance(value, list) or len(value) > VOCABULARY:
        raise CheckpointError(f"{where} must be a list of at most {VOCABULARY} pieces and scores")
    found: list[tuple[str, float]] = []
    for item in value:
        match item:
            case [str(piece), int() | float() as score] if isfinite(score) and len(piece) <= LONGEST_PIECE:
                found.append((piece, float(score)))
            case _:
                raise CheckpointError(
                    f"{where}[{len(found)}] must be a piece of at most {LONGEST_PIECE} characters and its "
                    f"score, got {item!r:.60}"
                )
    return found


KIND = Kind(
    _make,
    {
        "vocab": Option(_read_scored),
        "unk_id": Option(nullable(count), None),
        "byte_fallback": Option(flag, False),
    },
)
