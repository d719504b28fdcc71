"""Train a unigram language model (Kudo 2018, section 3.2): prune a large vocabulary step by step.

    seed pieces ─ EM twice ─ prune the pieces with the smallest loss of likelihood ─ EM twice ─ … ─ vocab_size

The steps are SentencePiece's. Seed pieces are the characters, and the substrings that two different
characters follow. They are ranked by length times occurrences. The M step uses digamma(count) in place of
log(count), a sparse prior (Liang & Klein 2007). A piece with an expected count below one half is dropped.

Seed pieces and EM equal the results of the `tokenizers` library up to rounding. The library adds in the order
of a hash table; here words are added in the order of the text. The library's pruning keeps other pieces in a
few cases of a hundred, which are nearly equally good. The reason isn't known, so the tests limit the
difference in likelihood instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, log
from typing import TypeAlias

from ...errors import LimitError
from .bpe_training import Progress
from .unigram import Unigram

Scored: TypeAlias = list[tuple[str, float]]
UNKNOWN = ("", inf)  # piece 0 in training; no word contains it
LEAST_EXPECTED = 0.5
SCORE_STEP = 0.0001  # between the scores of characters that EM dropped


def train(
    words: Mapping[str, int],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] = (),
    unk_token: str | None = None,
    initial_alphabet: Iterable[str] = (),
    shrinking_factor: float = 0.75,
    iterations: int = 2,
    max_piece_length: int = 16,
    seed_size: int = 1_000_000,
    progress: Progress | None = None,
) -> tuple[Scored, int | None]:
    """Train a unigram model on words with their counts. Return pieces with log-probabilities, and the unknown
    token's id.

    There are at most `vocab_size` pieces, with special tokens first. Raises LimitError if the characters
    alone exceed `vocab_size`.
    """
    required = sorted({character for word in words for character in word} | set(initial_alphabet))
    if len(required) > vocab_size - len(special_tokens):
        raise LimitError(
            f"the vocabulary must have at least {len(required) + len(special_tokens)} tokens, for all "
            f"characters and the special tokens, got {vocab_size}"
        )
    pieces = [UNKNOWN, *seed_pieces(words, max_piece_length, seed_size)]
    first, target = len(pieces), vocab_size * 11 // 10
    while True:
        for _ in range(iterations):
            expected = expected_counts(Unigram(pieces, 0), words)
            pieces = m_step(pieces, expected)
            if progress is not None:
                progress("removing pieces", first - len(pieces), max(first - target, 1))
        if len(pieces) <= target:
            break
        before = len(pieces)
        pieces = pruned_pieces(pieces, words, max(target, int(before * shrinking_factor)))
        if len(pieces) == before:
            break  # every piece left is needed
    return _finalize(pieces[1:], required, vocab_size, special_tokens, unk_token)


def seed_pieces(words: Iterable[str], longest: int, most: int) -> Scored:
    """Return the first vocabulary of a training, with log-probabilities: all characters and the branching
    substrings.

    The branching substrings are the inner nodes of a suffix tree over the different words.
    """
    characters: dict[str, int] = {}
    following: dict[str, str | None] = {}  # substring -> the character after it; None if they differ
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
    singles = [(times, c) for c, times in characters.items()]
    branching = [(occurrences[p] * len(p), p) for p, after in following.items() if after is None]
    ranked = [*sorted(singles, reverse=True), *sorted(branching, reverse=True)]
    ranked = ranked[: max(most, len(singles))]
    total = log(sum(weight for weight, _ in ranked)) if ranked else 0.0
    return [(piece, log(weight) - total) for weight, piece in ranked]


def expected_counts(model: Unigram, words: Mapping[str, int]) -> list[float]:
    """Do the E step of EM: return the expected count of each piece over all words."""
    expected = [0.0] * len(model.scored_pieces)
    for word, times in words.items():
        model.lattice(word).add_expected_counts(times, expected)
    return expected


def m_step(pieces: Scored, expected: Sequence[float]) -> Scored:
    """Do the M step of EM: set each piece's score to digamma(its expected count) − digamma(sum of all
    counts).

    The unknown piece stays first."""
    kept = [
        (piece, times)
        for (piece, _), times in zip(pieces[1:], expected[1:], strict=True)
        if times >= LEAST_EXPECTED
    ]
    total = digamma(sum(times for _, times in kept)) if kept else 0.0
    return [UNKNOWN, *((piece, digamma(times) - total) for piece, times in kept)]


def pruned_pieces(pieces: Scored, words: Mapping[str, int], vocab_size: int) -> Scored:
    """Prune a vocabulary to `vocab_size` pieces.

    Pieces that no other pieces can replace are kept first, and then the pieces with the largest loss. The
    loss of a piece is its share of the words, times the loss of log-probability when the piece's second-best
    segmentation replaces it.
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
        paths = model.lattice(piece).nbest(2)
        is_own_best_path = len(paths[0]) == 1
        if frequency[i] == 0 and not is_own_best_path:
            continue
        if len(paths) == 1 or not is_own_best_path:
            kept.append((piece, score))
        elif frequency[i] > 0:
            others = paths[1]
            more = log(total + frequency[i] * (len(others) - 1))
            spelled = sum(log(frequency[edge.id] + frequency[i]) - more for edge in others)
            loss = frequency[i] / all_words * (log(frequency[i]) - log(total) - spelled)
            candidates.append((loss, i))
    candidates.sort(key=lambda candidate: -candidate[0])
    room = max(0, vocab_size - len(kept))
    return [*kept, *(pieces[i] for _, i in candidates[:room])]


def _finalize(
    pieces: Scored,
    required: Sequence[str],
    vocab_size: int,
    special_tokens: Sequence[str],
    unk_token: str | None,
) -> tuple[Scored, int | None]:
    """Return the final vocabulary: special tokens, then all required characters and the best other pieces by
    score.
    """
    score_of, least = dict(pieces), min((score for _, score in pieces), default=0.0)
    missing = (c for c in required if c not in score_of)
    dropped_scores = {c: least + i * SCORE_STEP for i, c in enumerate(missing)}
    scores = {c: score_of.get(c, dropped_scores.get(c, least)) for c in required}
    first_tokens = list(special_tokens)
    if unk_token is not None and unk_token not in first_tokens:
        first_tokens.insert(0, unk_token)
    for piece, score in pieces:
        if len(scores) >= vocab_size - len(first_tokens):
            break
        scores.setdefault(piece, score)
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    unknown = None if unk_token is None else first_tokens.index(unk_token)
    return [*((token, 0.0) for token in first_tokens), *ranked], unknown


def digamma(x: float) -> float:
    """Return digamma(x), the derivative of log Γ at x > 0.

    The recurrence raises x to at least 7. Then the asymptotic series about x − 1/2 is used."""
    result = 0.0
    while x < 7:
        result -= 1 / x
        x += 1
    x -= 0.5
    square = 1 / (x * x)
    series = (1 / 24) - square * (7 / 960 - square * (31 / 8064 - square * 127 / 30720))
    return result + log(x) + square * series
