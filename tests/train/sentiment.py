"""Sentiment: whether a review is positive, negative, or mixed; "not" reverses a word."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import task
from loop import Row
from task import NORM, WIDTH, Example, Task
from tfm.refimpl.config import Classify, Config, Embedding, Encoder, Rope, Stack
from tfm.runtime.tasks import Model
from tfm.runtime.text.tokenizer import Tokenizer

LABELS = ("negative", "mixed", "positive")
NOUNS = ("food", "room", "staff", "view", "music", "price", "garden", "film", "story", "coffee")
PRAISE = ("good", "great", "lovely", "superb", "pleasant", "charming", "splendid", "delightful")
BLAME = ("bad", "awful", "dull", "horrible", "dreadful", "poor", "shabby", "disappointing")
HOW = ("", "very ", "quite ", "really ", "not ", "not very ", "never ")
CONTEXT = 32


def clause(rng: np.random.Generator) -> tuple[str, bool]:
    """A clause about a thing, and whether it is positive."""
    good, how = bool(rng.integers(2)), str(rng.choice(HOW))
    words = f"the {rng.choice(NOUNS)} was {how}{rng.choice(PRAISE if good else BLAME)}"
    return words, good != how.startswith(("not", "never"))


def draw(rng: np.random.Generator) -> Example:
    """A review of each label as often, of one to three clauses."""
    label = LABELS[rng.integers(3)]
    while True:
        words, praise = zip(*(clause(rng) for _ in range(rng.integers(1, 4))), strict=True)
        review_label = "mixed" if len(set(praise)) > 1 else LABELS[2 * praise[0]]
        if review_label == label:
            return Example(" and ".join(words), label)


def tokenizer(texts: Iterable[str]) -> str:
    return task.trained(texts, "bpe", 512)


def config(vocabulary: int) -> Config:
    stack = Stack((task.layer(position=Rope(1e4, WIDTH // task.HEADS)),) * 2, NORM)
    head = Classify(len(LABELS), "max")
    return Encoder(Embedding(vocabulary, WIDTH, WIDTH**0.5), stack, head, CONTEXT)


def row(text: Tokenizer, example: Example) -> Row:
    return Row(text.encode(example.text, add_special_tokens=True), [LABELS.index(example.answer)])


def answers(model: Model, texts: list[str]) -> list[str]:
    return [labels[0].label for labels in model.classify(texts)]


TASK = Task("sentiment", "accuracy", 300, draw, tokenizer, config, row, answers, task.right, LABELS)
