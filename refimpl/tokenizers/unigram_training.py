"""Training of a unigram language model (Kudo 2018, section 3.2): a large vocabulary, made smaller.

    seeds ─ EM twice ─ drop the pieces that the likelihood misses least ─ EM twice ─ … ─ the size asked for

As SentencePiece does it: seeds are the characters and the substrings that are followed by two different
characters, by length times occurrences; the M step takes digamma(count) for log(count), a sparse prior
(Liang & Klein 2007); a piece expected less than half a time goes.

Seeds and EM are those of the `tokenizers` library to the last digits (it adds in the order of a hash table,
here words are added as the text has them). Its choice of what to drop differs for a few pieces in a hundred,
those worth nearly the same; the reason isn't known, so the tests bound the likelihood instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, log
from typing import TypeAlias

from ..errors import LimitError
from .bpe_training import Progress
from .unigram import Unigram

Scored: TypeAlias = list[tuple[str, float]]
UNKNOWN = ("", inf)  # piece 0 while training: it is no piece of any word
LEAST_EXPECTED = 0.5
MARGIN = 1.1  # of the size asked for: what EM may still drop
PENALTY = 0.0001  # between the scores of characters that EM dropped


def train(
    words: Mapping[str, int],
    size: int,
    *,
    special: Sequence[str] = (),
    unk_token: str | None = None,
    alphabet: Iterable[str] = (),
    shrinking_factor: float = 0.75,
    iterations: int = 2,
    max_piece_length: int = 16,
    seed_size: int = 1_000_000,
    progress: Progress | None = None,
) -> tuple[Scored, int | None]:
    """Pieces with log-probabilities, at most `size` with the special tokens before them, and the id of the
    unknown token, of words with their counts. Raises LimitError if the characters alone are more."""
    required = sorted({character for word in words for character in word} | set(alphabet))
    if len(required) > size - len(special):
        raise LimitError(f"a vocabulary of {size} must have room for {len(required)} characters")
    pieces = [UNKNOWN, *seeds(words, max_piece_length, seed_size)]
    first, wanted = len(pieces), size * 11 // 10
    while True:
        for _ in range(iterations):
            expected = expectations(Unigram(pieces, 0), words)
            pieces = maximized(pieces, expected)
            if progress is not None:
                progress("pieces", first - len(pieces), max(first - wanted, 1))
        if len(pieces) <= wanted:
            break
        before = len(pieces)
        pieces = pruned(pieces, words, max(wanted, int(before * shrinking_factor)))
        if len(pieces) == before:
            break  # every piece left is needed
    return _finished(pieces[1:], required, size, special, unk_token)


def seeds(words: Iterable[str], longest: int, most: int) -> Scored:
    """Log-probabilities of the characters and of the substrings that branch: the inner nodes of a suffix
    tree over the different words."""
    characters: dict[str, int] = {}
    following: dict[str, str | None] = {}  # substring -> what follows it; None for different things
    occurrences: dict[str, int] = {}
    counts = words if isinstance(words, Mapping) else dict.fromkeys(words, 1)
    for word, times in counts.items():
        for part in word.split("\0"):
            for character in part:
                characters[character] = characters.get(character, 0) + times
            for start in range(len(part) - 1):
                for end in range(start + 2, min(len(part), start + longest) + 1):
                    piece, after = part[start:end], part[end : end + 1]
                    occurrences[piece] = occurrences.get(piece, 0) + 1
                    if following.setdefault(piece, after) != after:
                        following[piece] = None
    found = [(times, c) for c, times in characters.items()]
    branching = [(occurrences[p] * len(p), p) for p, after in following.items() if after is None]
    ranked = [*sorted(found, reverse=True), *sorted(branching, reverse=True)]
    ranked = ranked[: max(most, len(found))]
    total = log(sum(weight for weight, _ in ranked)) if ranked else 0.0
    return [(piece, log(weight) - total) for weight, piece in ranked]


def expectations(model: Unigram, words: Mapping[str, int]) -> list[float]:
    """E step: the expected count of each piece."""
    expected = [0.0] * len(model.scored)
    for word, times in words.items():
        model.lattice(word).expected(times, expected)
    return expected


def maximized(pieces: Scored, expected: Sequence[float]) -> Scored:
    """M step: digamma(count) − digamma(sum) of the pieces that are left; the unknown stays first."""
    kept = [
        (piece, times)
        for (piece, _), times in zip(pieces[1:], expected[1:], strict=True)
        if times >= LEAST_EXPECTED
    ]
    total = digamma(sum(times for _, times in kept)) if kept else 0.0
    return [UNKNOWN, *((piece, digamma(times) - total) for piece, times in kept)]


def pruned(pieces: Scored, words: Mapping[str, int], size: int) -> Scored:
    """The pieces that can't be spelled by others, then those without which the words get least likely.

    Loss of a piece: its share of the words, times what its log-probability loses when the second-best way
    to spell it takes over its count.
    """
    model = Unigram(pieces, 0)
    frequency = [0.0] * len(pieces)
    for word, times in words.items():
        for edge in model.lattice(word).viterbi():
            frequency[edge.id] += times
    total, all_words = sum(frequency), sum(words.values())
    kept: Scored = [UNKNOWN]
    candidates: list[tuple[float, int]] = []
    for i, (piece, score) in enumerate(pieces[1:], 1):
        ways = model.lattice(piece).nbest(2)
        whole = len(ways[0]) == 1
        if frequency[i] == 0 and not whole:
            continue
        if len(ways) == 1 or not whole:
            kept.append((piece, score))
        elif frequency[i] > 0:
            others = ways[1]
            more = log(total + frequency[i] * (len(others) - 1))
            spelled = sum(log(frequency[edge.id] + frequency[i]) - more for edge in others)
            loss = frequency[i] / all_words * (log(frequency[i]) - log(total) - spelled)
            candidates.append((loss, i))
    candidates.sort(key=lambda candidate: -candidate[0])
    room = max(0, size - len(kept))
    return [*kept, *(pieces[i] for _, i in candidates[:room])]


def _finished(
    pieces: Scored, required: Sequence[str], size: int, special: Sequence[str], unk_token: str | None
) -> tuple[Scored, int | None]:
    """All required characters, then the best pieces as far as there is room, by score."""
    known, least = dict(pieces), min((score for _, score in pieces), default=0.0)
    missing = (c for c in required if c not in known)
    late = {c: least + i * PENALTY for i, c in enumerate(missing)}
    made = {c: known.get(c, late.get(c, least)) for c in required}
    before = list(special)
    if unk_token is not None and unk_token not in before:
        before.insert(0, unk_token)
    for piece, score in pieces:
        if len(made) >= size - len(before):
            break
        made.setdefault(piece, score)
    ranked = sorted(made.items(), key=lambda item: -item[1])
    unknown = None if unk_token is None else before.index(unk_token)
    return [*((token, 0.0) for token in before), *ranked], unknown


def digamma(x: float) -> float:
    """The derivative of log Γ at x > 0: recurrence up to 7, then the asymptotic series about x − 1/2."""
    result = 0.0
    while x < 7:
        result -= 1 / x
        x += 1
    x -= 0.5
    square = 1 / (x * x)
    series = (1 / 24) - square * (7 / 960 - square * (31 / 8064 - square * 127 / 30720))
    return result + log(x) + square * series
