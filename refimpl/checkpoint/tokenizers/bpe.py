"""Byte-pair encoding (Sennrich et al. 2016): repeatedly merge the pair of neighbours with the lowest rank.

The algorithm ends when no pair has a merge. Byte-level BPE (Radford et al. 2019) is the same model over
characters that represent bytes; the pre-tokenizer makes these characters. With `byte_fallback`
(SentencePiece) the model writes a character that isn't in its vocabulary as tokens <0x00> to <0xFF>.

If several pairs are equal, the leftmost pair is merged first. A heap contains the candidates, and neighbours
are linked. A merge adds at most two candidates. So n characters take O(n log n) time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeAlias

from ...errors import CheckpointError
from .components import ComponentType, Option, flag, nullable, text
from .vocabulary import Token, read_vocabulary

Symbol: TypeAlias = tuple[int, int]  # id, and how many UTF-8 bytes of the word it stands for
MAX_MERGES = 2**22


@dataclass(frozen=True)
class BPE:
    """A BPE model: a vocabulary, the merges {(left id, right id): (rank, id)}, and rules for unknown
    characters.
    """

    vocabulary: Mapping[str, int]
    merges: Mapping[tuple[int, int], tuple[int, int]]
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False
    tokens: Mapping[int, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", {id: token for token, id in self.vocabulary.items()})

    def tokenize(self, word: str) -> list[Token]:
        """Split a word into tokens. An unknown character is left out if the model has no `unk_token`."""
        if self.ignore_merges and word in self.vocabulary:
            return [Token(self.vocabulary[word], word, 0, len(word))]
        symbols = merge(list(self._symbols(word)), self.merges)
        # A byte token stands for one byte: its offsets are the character that holds the byte.
        character_of_byte = list(range(len(word)))
        if not word.isascii():
            character_of_byte = [i for i, character in enumerate(word) for _ in character.encode()]
        ends = list(accumulate(length for _, length in symbols))
        return [
            Token(id, self.tokens[id], character_of_byte[end - length], character_of_byte[end - 1] + 1)
            for (id, length), end in zip(symbols, ends, strict=True)
        ]

    def _symbols(self, word: str) -> Iterator[Symbol]:
        """Yield the symbols of a word before any merge: characters, bytes or the unknown token."""
        unknown = 0  # bytes of unknown characters that weren't yielded yet
        for i, character in enumerate(word):
            size = len(character.encode())
            first, last = i == 0, i == len(word) - 1
            token = ("" if first else self.continuing_subword_prefix or "") + character
            token += (self.end_of_word_suffix or "") if last else ""
            if token in self.vocabulary:
                if unknown:
                    yield self._unknown(), unknown
                    unknown = 0
                yield self.vocabulary[token], size
            elif self.byte_fallback and (spelled := self._bytes(token)) is not None:
                yield from spelled  # before the unknown characters to its left, as in the library
            elif self.unk_token is not None:
                if unknown and not self.fuse_unk:
                    yield self._unknown(), unknown
                    unknown = 0
                unknown += size
        if unknown:
            yield self._unknown(), unknown

    def _bytes(self, token: str) -> list[Symbol] | None:
        spelled = [self.vocabulary.get(f"<0x{byte:02X}>") for byte in token.encode()]
        return [(i, 1) for i in spelled if i is not None] if None not in spelled else None

    def _unknown(self) -> int:
        assert self.unk_token is not None
        if self.unk_token not in self.vocabulary:
            raise CheckpointError(f"model.unk_token {self.unk_token!r:.60} must be in the vocabulary")
        return self.vocabulary[self.unk_token]


def merge(symbols: list[Symbol], merges: Mapping[tuple[int, int], tuple[int, int]]) -> list[Symbol]:
    """Apply all possible merges to some symbols, and return the symbols that remain.

    The pair with the lowest rank is merged first. Among equal pairs, the leftmost pair is merged first.
    """
    count = len(symbols)
    ids, sizes = [s[0] for s in symbols], [s[1] for s in symbols]
    before, after = list(range(-1, count - 1)), [*range(1, count), -1]
    heap = [
        (rank_and_id[0], i, rank_and_id[1])
        for i in range(count - 1)
        if (rank_and_id := merges.get((ids[i], ids[i + 1]))) is not None
    ]
    heapq.heapify(heap)
    while heap:
        _, at, merged = heapq.heappop(heap)
        right = after[at]
        if not sizes[at] or right < 0:
            continue
        rank_and_id = merges.get((ids[at], ids[right]))
        if rank_and_id is None or rank_and_id[1] != merged:
            continue  # one of the two was merged with another symbol since
        ids[at] = merged
        sizes[at] += sizes[right]
        after[at] = after[right]
        sizes[right] = 0
        if after[at] >= 0:
            before[after[at]] = at
        for left, other in ((before[at], at), (at, after[at])):
            if left >= 0 and other >= 0 and (rank_and_id := merges.get((ids[left], ids[other]))):
                heapq.heappush(heap, (rank_and_id[0], left, rank_and_id[1]))
    return [(number, size) for number, size in zip(ids, sizes, strict=True) if size]


def _make(vocab: dict[str, int], merges: list[list[str]], dropout: None, **options: Any) -> BPE:
    del dropout
    prefix = options["continuing_subword_prefix"] or ""
    if options["byte_fallback"] and (prefix or options["end_of_word_suffix"]):
        raise CheckpointError(
            "model.byte_fallback can't be combined with continuing_subword_prefix or end_of_word_suffix: "
            "bytes of an affix would become tokens for no character of the text"
        )
    ranks: dict[tuple[int, int], tuple[int, int]] = {}
    for rank, (left, right) in enumerate(merges):
        joined = left + right.removeprefix(prefix)
        if not right.startswith(prefix) or not all(part in vocab for part in (left, right, joined)):
            raise CheckpointError(
                f"model.merges[{rank}] must join two tokens into a third, got {left!r:.40} and {right!r:.40}"
            )
        ranks[vocab[left], vocab[right]] = (rank, vocab[joined])
    return BPE(vocab, ranks, **options)


def _read_merges(value: Any, where: str) -> list[list[str]]:
    """Read merges in either form: `[[left, right], …]`, or `["left right", …]` as in older files."""
    if not isinstance(value, list) or len(value) > MAX_MERGES:
        raise CheckpointError(f"{where} must be a list of at most {MAX_MERGES} merges")
    merges: list[list[str]] = []
    for item in value:
        if isinstance(item, str) and item.startswith("#version"):
            continue
        pair = item.split(" ") if isinstance(item, str) else item
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise CheckpointError(f"{where}[{len(merges)}] must be two tokens, got {item!r:.60}")
        merges.append(pair)
    return merges


def _no_dropout(value: Any, where: str) -> None:
    if value not in (None, 0):
        raise CheckpointError(f"{where} must be null: with dropout the same text gets other tokens each time")


COMPONENT_TYPE = ComponentType(
    _make,
    {
        "dropout": Option(_no_dropout, None),
        "unk_token": Option(nullable(text), None),
        "continuing_subword_prefix": Option(nullable(text), None),
        "end_of_word_suffix": Option(nullable(text), None),
        "fuse_unk": Option(flag, False),
        "byte_fallback": Option(flag, False),
        "ignore_merges": Option(flag, False),
        "vocab": Option(read_vocabulary),
        "merges": Option(_read_merges),
    },
)
