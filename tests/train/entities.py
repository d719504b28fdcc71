"""Tagging people, companies and places in sentences; all names are made of the same syllables.

So a name alone doesn't show its kind, and a test's names are new: the words around them decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import task
from loop import Row
from task import NORM, WIDTH, Example, Task
from tfm.refimpl.config import Config, Embedding, Encoder, Rope, Stack, Tag
from tfm.runtime.tasks import Model
from tfm.runtime.text.tokenizer import Tokenizer

KINDS = ("PER", "ORG", "LOC")
LABELS = ("O", *(f"{part}-{kind}" for kind in KINDS for part in "BI"))
SENTENCES = (
    "PER works for ORG in LOC",
    "PER moved from LOC to LOC",
    "ORG hired PER last year",
    "ORG opened a shop in LOC",
    "PER and PER met near LOC",
    "shares of ORG fell after PER left",
    "nobody in LOC knows PER",
    "the road to LOC was built by ORG",
    "PER wrote to PER about ORG",
)
SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
FORMS = {
    "PER": ("{} {}", "{}", "doctor {}"),
    "ORG": ("{} {} bank", "{} group", "{}"),
    "LOC": ("new {}", "{}", "{} lake"),
}
CONTEXT = 64


def name(rng: np.random.Generator) -> str:
    return "".join(rng.choice(SYLLABLES, rng.integers(2, 4)))


def draw(rng: np.random.Generator) -> Example:
    """A sentence, and its entities as (kind, start, end)."""
    text, results = "", []
    for part in re.split(f"({'|'.join(KINDS)})", str(rng.choice(SENTENCES))):
        words = part
        if part in KINDS:
            form = str(rng.choice(FORMS[part]))
            words = form.format(*(name(rng) for _ in range(form.count("{}"))))
            results.append((part, len(text), len(text) + len(words)))
        text += words
    return Example(text, results)


def tokenizer(texts: Iterable[str]) -> str:
    return task.trained(texts, "unigram", 160)


def config(vocabulary: int) -> Config:
    stack = Stack((task.layer(position=Rope(1e4, WIDTH // task.HEADS)),) * 2, NORM)
    return Encoder(Embedding(vocabulary, WIDTH, WIDTH**0.5), stack, Tag(len(LABELS)), CONTEXT)


def row(text: Tokenizer, example: Example) -> Row:
    """B- for the first token of an entity, I- for its others, O between."""
    encoding = text.encode_with_offsets(example.text)
    label_ids = [LABELS.index("O")] * len(encoding.ids)
    for kind, first, last in example.answer:
        starts = zip(encoding.sequence_ids, encoding.offsets, strict=True)
        inside = [i for i, (text_id, (at, _)) in enumerate(starts) if text_id == 0 and first <= at < last]
        for i in inside:
            label_ids[i] = LABELS.index(f"{'B' if i == inside[0] else 'I'}-{kind}")
    return Row(encoding.ids, label_ids)


def answers(model: Model, texts: list[str]) -> list[list[tuple[str, int, int]]]:
    tagged = model.tag(texts, aggregation="first")
    return [[(e.label, e.start, e.end) for e in entities] for entities in tagged]


def f1(predicted: Sequence[list], expected: Sequence[list]) -> float:
    """2 · common / (found + wanted), of whole entities with kind and characters (CoNLL's measure)."""
    common = sum(len(set(f) & set(w)) for f, w in zip(predicted, expected, strict=True))
    return 2 * common / max(sum(map(len, (*predicted, *expected))), 1)


TASK = Task("entities", "F1", 200, draw, tokenizer, config, row, answers, f1, LABELS)
