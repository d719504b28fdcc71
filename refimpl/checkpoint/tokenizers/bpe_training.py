"""Train byte-pair encoding (Sennrich et al. 2016, algorithm 1): repeatedly merge the most frequent pair.

If pairs are equally frequent, the pair with the smaller ids is merged. So the order of ids matters. Special
tokens come first, then characters by code point, then merged tokens in the order of their creation. On the
same text the merges equal the merges of the `tokenizers` library, even if counts are equal.

In three cases the library itself depends on the order of a hash table. If several characters are equally
rare, `limit_alphabet` drops one of them; here it drops the one with the larger code point. Characters with an
affix get ids in an arbitrary order; here they get ids in the order of the text. If two merges give the same
token, one of two batches of a pair is merged first; here it is the older batch.

Pairs wait in a heap with the words that contain them. A merge changes only the counts of neighbouring
pairs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, pairwise
from typing import TypeAlias

from ...errors import LimitError

Pair: TypeAlias = tuple[int, int]
Progress: TypeAlias = Callable[[str, int, int], None]  # stage, done, all


def train(
    words: Mapping[str, int],
    vocab_size: int,
    *,
    min_frequency: int = 0,
    special_tokens: Sequence[str] = (),
    initial_alphabet: Iterable[str] = (),
    limit_alphabet: int | None = None,
    continuing_subword_prefix: str = "",
    end_of_word_suffix: str = "",
    max_token_length: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train BPE on words with their counts. Return a vocabulary {token: id} and the merges.

    The vocabulary has at most `vocab_size` tokens. Characters of `initial_alphabet` are kept even if no word
    contains them. A pair that occurs less often than `min_frequency` isn't merged. A new pair isn't counted
    if its token would have `max_token_length` characters or more.
    """
    if vocab_size < 1:
        raise LimitError(f"a vocabulary must have at least 1 token, got {vocab_size}")
    ids = {token: i for i, token in enumerate(dict.fromkeys(special_tokens))}
    for character in _characters(words, initial_alphabet, limit_alphabet):
        ids.setdefault(character, len(ids))
    characters = set(ids)
    symbols: list[list[int]] = []
    for word in words:
        kept = [(i, c) for i, c in enumerate(word) if c in characters]
        tokens = [
            (continuing_subword_prefix if i else "") + c + (end_of_word_suffix if i == len(word) - 1 else "")
            for i, c in kept
        ]
        symbols.append([ids.setdefault(token, len(ids)) for token in tokens])
    pairs = _merges(ids, symbols, list(words.values()), vocab_size, min_frequency, continuing_subword_prefix,
                    max_token_length, progress)  # fmt: skip
    tokens = list(ids)
    # A pair that was merged in two batches has the rank of the second, as in the library's map.
    last = {pair: rank for rank, pair in enumerate(pairs)}
    return ids, [(tokens[a], tokens[b]) for rank, (a, b) in enumerate(pairs) if last[a, b] == rank]


def _characters(words: Mapping[str, int], initial_alphabet: Iterable[str], limit: int | None) -> list[str]:
    counts: dict[str, float] = {}
    for word, times in words.items():
        for character in word:
            counts[character] = counts.get(character, 0) + times
    counts |= dict.fromkeys(initial_alphabet, float("inf"))
    kept = sorted(counts, key=lambda c: (-counts[c], c))
    return sorted(kept if limit is None else kept[:limit])


def _merges(
    ids: dict[str, int],
    words: list[list[int]],
    counts: Sequence[int],
    vocab_size: int,
    min_frequency: int,
    prefix: str,
    max_token_length: int | None,
    progress: Progress | None,
) -> list[Pair]:
    """Merge pairs until the vocabulary is full. Return the merged pairs in order, and add their tokens to
    `ids`.
    """
    tokens, order = list(ids), count()
    lengths = [1] * len(tokens)  # characters of the words that a token stands for
    frequency: dict[Pair, int] = {}
    words_with: dict[Pair, set[int]] = {}
    for i, word in enumerate(words):
        for pair in pairwise(word):
            frequency[pair] = frequency.get(pair, 0) + counts[i]
            words_with.setdefault(pair, set()).add(i)
    heap = [(-frequency[pair], pair, next(order), where) for pair, where in words_with.items()]
    heapq.heapify(heap)
    done: list[Pair] = []
    while heap and len(ids) < vocab_size:
        negative, pair, _, where = heapq.heappop(heap)
        now = frequency[pair]
        if now != -negative:
            heapq.heappush(heap, (-now, pair, next(order), where))
            continue
        if now < max(1, min_frequency):
            break
        token = tokens[pair[0]] + tokens[pair[1]].removeprefix(prefix)
        new = ids.setdefault(token, len(ids))
        if new == len(tokens):
            tokens.append(token)
            lengths.append(0)
        lengths[new] = lengths[pair[0]] + lengths[pair[1]]
        done.append(pair)
        new_pairs: dict[Pair, set[int]] = {}
        for i in where:
            words[i], removed, added = _merge_pair(words[i], pair, new)
            for old in removed:
                frequency[old] = frequency.get(old, 0) - counts[i]
            for added_pair in added:
                if (
                    max_token_length is None
                    or lengths[added_pair[0]] + lengths[added_pair[1]] < max_token_length
                ):
                    frequency[added_pair] = frequency.get(added_pair, 0) + counts[i]
                    new_pairs.setdefault(added_pair, set()).add(i)
        for added_pair, indices in new_pairs.items():
            if frequency[added_pair] > 0:
                heapq.heappush(heap, (-frequency[added_pair], added_pair, next(order), indices))
        if progress is not None:
            progress("learning merges", len(ids), vocab_size)
    return done


def _merge_pair(word: list[int], pair: Pair, new: int) -> tuple[list[int], list[Pair], list[Pair]]:
    """Merge each `pair` in a word, from the left. Return the word, the pairs that disappeared, and the new
    pairs.
    """
    left, right = pair
    merged: list[int] = []
    removed: list[Pair] = []
    added: list[Pair] = []
    i, n = 0, len(word)
    while i < n:
        symbol = word[i]
        if symbol != left or i + 1 == n or word[i + 1] != right:
            merged.append(symbol)
            i += 1
            continue
        if merged:
            removed.append((merged[-1], left))
            added.append((merged[-1], new))
        merged.append(new)
        i += 2
        if i < n:
            removed.append((right, word[i]))
            added.append((new, word[i]))
    return merged, removed, added
