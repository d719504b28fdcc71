"""Training of byte-pair encoding (Sennrich et al. 2016, algorithm 1): join the most frequent pair, again
and again.

Of equally frequent pairs the one with the smaller ids is joined, so ids count: special tokens first, then
characters by code point, then joined pieces in the order of their making. These are the merges of the
`tokenizers` library on the same text, ties included. The library itself is undecided in three places,
where it takes the order of a hash table: which of equally rare characters `limit_alphabet` drops (here
the later by code point), which ids characters with an affix get (here as the text has them), and, where
one piece comes about in two ways, which of two batches of a pair goes first (here the older).

Pairs wait in a heap with the words that hold them; a merge changes the counts of its neighbours only.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, pairwise
from typing import TypeAlias

from ..errors import LimitError

Pair: TypeAlias = tuple[int, int]
Progress: TypeAlias = Callable[[str, int, int], None]  # stage, done, all


def train(
    words: Mapping[str, int],
    size: int,
    *,
    min_frequency: int = 0,
    special: Sequence[str] = (),
    alphabet: Iterable[str] = (),
    limit_alphabet: int | None = None,
    continuing_subword_prefix: str = "",
    end_of_word_suffix: str = "",
    max_token_length: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary {piece: id} of at most `size` pieces, and its merges, of words with their counts.

    `alphabet` is kept whether the words hold it or not. A pair rarer than `min_frequency` isn't joined,
    nor is a new pair counted whose piece would have `max_token_length` characters or more.
    """
    if size < 1:
        raise LimitError(f"a vocabulary must have at least 1 piece, asked for {size}")
    ids = {token: i for i, token in enumerate(dict.fromkeys(special))}
    for character in _characters(words, alphabet, limit_alphabet):
        ids.setdefault(character, len(ids))
    letters = set(ids)
    symbols: list[list[int]] = []
    for word in words:
        kept = [(i, c) for i, c in enumerate(word) if c in letters]
        pieces = [
            (continuing_subword_prefix if i else "") + c + (end_of_word_suffix if i == len(word) - 1 else "")
            for i, c in kept
        ]
        symbols.append([ids.setdefault(piece, len(ids)) for piece in pieces])
    pairs = _merges(ids, symbols, list(words.values()), size, min_frequency, continuing_subword_prefix,
                    max_token_length, progress)  # fmt: skip
    pieces = list(ids)
    # A pair that was joined in two batches has the rank of the second: the library's map keeps that.
    last = {pair: rank for rank, pair in enumerate(pairs)}
    return ids, [(pieces[a], pieces[b]) for rank, (a, b) in enumerate(pairs) if last[a, b] == rank]


def _characters(words: Mapping[str, int], alphabet: Iterable[str], limit: int | None) -> list[str]:
    found: dict[str, float] = {}
    for word, times in words.items():
        for character in word:
            found[character] = found.get(character, 0) + times
    found |= dict.fromkeys(alphabet, float("inf"))
    kept = sorted(found, key=lambda c: (-found[c], c))
    return sorted(kept if limit is None else kept[:limit])


def _merges(
    ids: dict[str, int],
    words: list[list[int]],
    counts: Sequence[int],
    size: int,
    min_frequency: int,
    prefix: str,
    longest: int | None,
    progress: Progress | None,
) -> list[Pair]:
    """The pairs that are joined, in order; `ids` grows by their pieces."""
    pieces, order = list(ids), count()
    lengths = [1] * len(pieces)  # characters of the words that a piece stands for
    frequency: dict[Pair, int] = {}
    holders: dict[Pair, set[int]] = {}
    for i, word in enumerate(words):
        for pair in pairwise(word):
            frequency[pair] = frequency.get(pair, 0) + counts[i]
            holders.setdefault(pair, set()).add(i)
    heap = [(-frequency[pair], pair, next(order), where) for pair, where in holders.items()]
    heapq.heapify(heap)
    done: list[Pair] = []
    while heap and len(ids) < size:
        negative, pair, _, where = heapq.heappop(heap)
        now = frequency[pair]
        if now != -negative:
            heapq.heappush(heap, (-now, pair, next(order), where))
            continue
        if now < max(1, min_frequency):
            break
        piece = pieces[pair[0]] + pieces[pair[1]].removeprefix(prefix)
        new = ids.setdefault(piece, len(ids))
        if new == len(pieces):
            pieces.append(piece)
            lengths.append(0)
        lengths[new] = lengths[pair[0]] + lengths[pair[1]]
        done.append(pair)
        fresh: dict[Pair, set[int]] = {}
        for i in where:
            words[i], gone, come = _joined(words[i], pair, new)
            for old in gone:
                frequency[old] = frequency.get(old, 0) - counts[i]
            for made in come:
                if longest is None or lengths[made[0]] + lengths[made[1]] < longest:
                    frequency[made] = frequency.get(made, 0) + counts[i]
                    fresh.setdefault(made, set()).add(i)
        for made, found in fresh.items():
            if frequency[made] > 0:
                heapq.heappush(heap, (-frequency[made], made, next(order), found))
        if progress is not None:
            progress("merges", len(ids), size)
    return done


def _joined(word: list[int], pair: Pair, new: int) -> tuple[list[int], list[Pair], list[Pair]]:
    """The word with `pair` joined from the left, the pairs that went and those that came."""
    left, right = pair
    made: list[int] = []
    gone: list[Pair] = []
    come: list[Pair] = []
    i, n = 0, len(word)
    while i < n:
        symbol = word[i]
        if symbol != left or i + 1 == n or word[i + 1] != right:
            made.append(symbol)
            i += 1
            continue
        if made:
            gone.append((made[-1], left))
            come.append((made[-1], new))
        made.append(new)
        i += 2
        if i < n:
            gone.append((right, word[i]))
            come.append((new, word[i]))
    return made, gone, come
