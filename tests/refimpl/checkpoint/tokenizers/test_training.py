"""Trained tokenizers against the library's trainers, and the lattice against all ways written out.

BPE: the same vocabulary and merges, ties included. Unigram: the same seeds and the same EM to the last
digits (a vocabulary with room for all pieces shows them); where pieces are dropped, the choice differs for
a few pieces that are worth nearly the same, so the likelihood of the text is compared.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from math import exp, isclose, log

import pytest
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.tokenizers import bpe_training, training, unigram_training
from tfm.refimpl.checkpoint.tokenizers.lattice import Lattice
from tfm.refimpl.checkpoint.tokenizers.tokenizer import Tokenizer
from tfm.refimpl.checkpoint.tokenizers.unigram import Unigram
from tfm.refimpl.errors import LimitError
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, trainers


def prose(seed: int, count: int) -> list[str]:
    """Lines of made-up words with a long tail, many of them equally rare."""
    rng = random.Random(seed)
    syllables = [a + b for a in "bdklmnprstvzé" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(400)]
    weights = [1 / (i + 1) for i in range(len(words))]
    return [" ".join(rng.choices(words, weights, k=12)) + rng.choice(".,!?") for _ in range(count)]


def by_library(words: dict[str, int], **options: object) -> dict:
    """The library's model of words with their counts."""
    made = Library(models.BPE())
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(show_progress=False, **options)  # type: ignore[arg-type]
    made.train_from_iterator([word for word, times in words.items() for _ in range(times)], trainer)
    return json.loads(made.to_str())["model"]


WORDS = st.dictionaries(st.text("aabbcd", min_size=1, max_size=9), st.integers(1, 3), min_size=1, max_size=12)


@given(
    words=WORDS,
    size=st.integers(1, 60),
    min_frequency=st.integers(0, 3),
    longest=st.none() | st.integers(1, 5),
    special=st.sampled_from([(), ("<s>",), ("a", "ab")]),
)
def test_merges_on_words_full_of_ties(
    words: dict[str, int], size: int, min_frequency: int, longest: int | None, special: tuple[str, ...]
) -> None:
    ids, merges = bpe_training.train(
        words,
        size,
        min_frequency=min_frequency,
        max_token_length=longest,
        special_tokens=special,
        initial_alphabet="xa",
    )
    want = by_library(
        words, vocab_size=size, min_frequency=min_frequency, max_token_length=longest,
        special_tokens=list(special), initial_alphabet=["x", "a"],
    )  # fmt: skip
    assert ids == want["vocab"]
    assert [list(pair) for pair in merges] == want["merges"]


@pytest.mark.parametrize("size", [300, 700, 3000])
def test_byte_level_merges_on_prose(size: int) -> None:
    lines = prose(1, 300)
    made = training.train(training.count_words(lines, "bpe"), "bpe", size, special_tokens=["<s>", "</s>"])
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<s>", "</s>"],
    )  # fmt: skip
    library.train_from_iterator(lines, trainer)
    want = json.loads(library.to_str())["model"]
    assert made.definition["model"]["vocab"] == want["vocab"]
    assert made.definition["model"]["merges"] == want["merges"]
    assert Library.from_str(json.dumps(made.definition)).encode(lines[0]).ids == made.encode(lines[0]).ids
    for less in (280, 290):
        short, own = training.truncate_vocabulary(made, less), training.train(
            training.count_words(lines, "bpe"), "bpe", less, special_tokens=["<s>", "</s>"]
        )  # fmt: skip
        assert short.definition["model"] == own.definition["model"]


def test_affixes_and_a_limited_alphabet() -> None:
    """Where nothing is tied, the library is decided too: WordPiece is trained as BPE with a prefix."""
    words = {"abab": 31, "abc": 17, "cab": 9, "ga": 6, "bxab": 4, "gz": 2}
    options = {"continuing_subword_prefix": "##", "end_of_word_suffix": "</w>", "limit_alphabet": 5}
    ids, merges = bpe_training.train(words, 26, **options)  # type: ignore[arg-type]
    want = by_library(words, vocab_size=26, **options)
    assert ids.keys() == want["vocab"].keys()
    assert [list(pair) for pair in merges] == want["merges"]


def test_the_limits() -> None:
    with refused(LimitError, "least", 1):
        bpe_training.train({"a": 1}, 0)
    with refused(LimitError, 4, "characters", 3):
        unigram_training.train({"abc": 1}, 3, special_tokens=["<unk>"])
    with refused(LimitError, "vocabulary", 258, 257):
        training.train({"abc": 1}, "bpe", 257, special_tokens=["<s>", "</s>"])
    assert len(training.train({"abc": 1}, "bpe", 258, special_tokens=["<s>", "</s>"]).vocabulary) == 258


def by_library_unigram(words: dict[str, int], size: int) -> list[tuple[str, float]]:
    made = Library(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator([word for word, times in words.items() for _ in range(times)], trainer)
    return [(piece, score) for piece, score in json.loads(made.to_str())["model"]["vocab"]]


def test_unigram_seeds_and_em_are_those_of_the_library() -> None:
    """A vocabulary with room for everything: seeds, E and M steps and the final order, nothing dropped but
    what is expected less than half a time. Characters that EM dropped come back with scores that the
    library numbers in the order of a hash table, 0.0001 apart."""
    words = Counter(word for line in prose(2, 200) for word in line.split())
    scored, unknown = unigram_training.train(words, 5000, special_tokens=["<unk>"], unk_token="<unk>")
    got, want = dict(scored), dict(by_library_unigram(words, 5000))
    assert unknown == 0
    assert got.keys() == want.keys()
    exact = [piece for piece in got if isclose(got[piece], want[piece], rel_tol=1e-10, abs_tol=1e-10)]
    assert all(len(piece) == 1 and abs(got[piece] - want[piece]) < 0.01 for piece in got.keys() - set(exact))
    assert len(exact) > 0.9 * len(got)


def likelihood(scored: list[tuple[str, float]], words: dict[str, int]) -> float:
    """Log-probability of the words by the best ways, a word."""
    model = Unigram(scored, 0)
    best = sum(times * model.lattice(word).best()[-1] for word, times in words.items())
    return best / sum(words.values())


@pytest.mark.parametrize("size", [120, 300])
def test_a_pruned_unigram_is_as_likely_as_the_library_s(size: int) -> None:
    words = Counter("▁" + word for line in prose(3, 400) for word in line.split())
    scored, _ = unigram_training.train(words, size, special_tokens=["<unk>"], unk_token="<unk>")
    want = by_library_unigram(words, size)
    assert len(scored) == len(want) == size
    ours, theirs = likelihood(scored, words), likelihood(want, words)
    assert ours > theirs - 0.01 * abs(theirs), (ours, theirs)
    tokens = [
        sum(times * len(Unigram(vocabulary, 0).tokenize(word)) for word, times in words.items())
        for vocabulary in (scored, want)
    ]
    assert abs(tokens[0] / tokens[1] - 1) < 0.03, tokens


PIECES = [("<unk>", 0.0), ("a", -1.0), ("b", -2.5), ("ab", -2.0), ("ba", -3.25), ("aba", -3.5), ("bb", -4.75)]
MODEL = Unigram(PIECES, 0)


def all_ways(word: str) -> list[tuple[float, tuple[str, ...]]]:
    """Every way to cut a word into pieces, with its log-probability."""
    scores, found = dict(PIECES[1:]), []
    for cuts in itertools.product((False, True), repeat=len(word) - 1):
        places = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(word)]
        way = tuple(word[a:b] for a, b in itertools.pairwise(places))
        if all(piece in scores for piece in way):
            found.append((sum(scores[piece] for piece in way), way))
    return sorted(found, reverse=True)


@given(word=st.text("ab", min_size=1, max_size=8), n=st.integers(1, 12))
def test_the_lattice_against_all_ways(word: str, n: int) -> None:
    ways, lattice = all_ways(word), MODEL.lattice(word)
    got = [[word[e.start : e.end] for e in way] for way in lattice.nbest(n)]
    scores = dict(PIECES)
    assert [sum(scores[p] for p in way) for way in got] == pytest.approx([score for score, _ in ways[:n]])
    assert len({tuple(way) for way in got}) == min(n, len(ways))
    assert sum(e.score for e in lattice.viterbi()) == pytest.approx(ways[0][0])
    total = log(sum(exp(score) for score, _ in ways))
    expected = [0.0] * len(PIECES)
    assert lattice.add_expected_counts(2.0, expected) == pytest.approx(total)
    for i, (piece, _) in enumerate(PIECES[1:], 1):
        want = 2 * sum(exp(score - total) * way.count(piece) for score, way in ways)
        assert expected[i] == pytest.approx(want)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_ways_are_drawn_by_their_probability(alpha: float) -> None:
    """Each way's frequency within five standard deviations."""
    word, draws, rng = "abbab", 4000, random.Random(4)
    ways = {way: exp(alpha * score) for score, way in all_ways(word)}
    total = sum(ways.values())
    found = Counter(
        tuple(t.value for t in MODEL.sample(word, alpha, [rng.random() for _ in word])) for _ in range(draws)
    )
    assert found.keys() <= ways.keys()
    for way, weight in ways.items():
        p = weight / total
        assert abs(found[way] - draws * p) <= 5 * (draws * p * (1 - p)) ** 0.5 + 1, way
    with refused(LimitError, "uniform", "number"):
        MODEL.sample(word, alpha, [0.5])


def test_a_lattice_that_needs_too_many_hypotheses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfm.refimpl.checkpoint.tokenizers.lattice.AGENDA", 50)
    with refused(LimitError, 50, "hypotheses"):
        MODEL.lattice("ab" * 30).nbest(1000)


def test_no_word_has_one_way() -> None:
    assert Lattice(0, []).viterbi() == []
    assert Lattice(0, []).nbest(3) == [[]]


@given(st.text(max_size=30))
def test_a_trained_tokenizer_gives_the_text_back(text: str) -> None:
    made = TRAINED
    assert made.decode(made.encode(text).ids) == text


TRAINED: Tokenizer = training.train(training.count_words(prose(5, 50), "bpe"), "bpe", 400)
