"""Compare the cost of a larger vocabulary, more embedding parameters, with its benefit, fewer tokens per
word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...refimpl.checkpoint.tokenizers import training
from ...refimpl.errors import LimitError
from ..progress import Progress

Method = Literal["bpe", "unigram"]


@dataclass(frozen=True)
class Vocabulary:
    """One vocabulary and its figures over the held-out text.

    - `vocabulary`: the number of different tokens.
    - `tokens`: the number of tokens into which the text is split.
    - `words`: the number of words in the text.
    - `unknown`: how many of the text's tokens are unknown.
    """

    name: str
    vocabulary: int
    tokens: int
    words: int
    tokens_per_word: float
    unknown: int


def compare(
    lines: Sequence[str],
    held_out: Sequence[str],
    method: Method,
    sizes: Sequence[int],
    progress: Progress,
) -> list[Vocabulary]:
    """Train a vocabulary of each size on `lines`, and measure each on `held_out`.

    The result begins with a vocabulary of single characters. The trained vocabularies follow in ascending
    order, up to the largest that the training text allows. Raises LimitError if `held_out` contains no
    word.
    """
    words = sum(len(line.split()) for line in held_out)
    if words == 0:
        raise LimitError("the held-out text must have at least one word")

    def measured(name: str, vocabulary: int, tokens: int, unknown: int) -> Vocabulary:
        return Vocabulary(name, vocabulary, tokens, words, tokens / words, unknown)

    characters = set().union(*lines)
    unknown = sum(character not in characters for line in held_out for character in line)
    rows = [measured("characters", len(characters) + 1, sum(map(len, held_out)), unknown)]
    trained_on = training.count_words(lines, method, progress)
    counted = training.count_words(held_out, method, progress)
    # The smaller vocabularies of BPE are beginnings of the largest, so it is trained once.
    largest = None
    if method == "bpe":
        largest = training.train(trained_on, method, sizes[-1], progress=progress)
    for size in sizes:
        if largest is not None:
            tokenizer = training.truncate_vocabulary(largest, size)
        else:
            tokenizer = training.train(trained_on, method, size, progress=progress)
        trained = len(tokenizer.vocabulary)
        rows.append(measured(f"{size:,}", trained, *training.count_tokens(tokenizer, counted)))
        if trained < size:
            break
    return rows
