"""People, organizations and places in sentences; some names are known, others are made up.

So a name alone doesn't always show its kind, and the words around it decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import task
from demos import words
from demos.words import CITIES, PEOPLE, known_or_new, pick
from loop import Row
from task import NORM, WIDTH, Example, Task
from tfm.refimpl.config import Config, Embedding, Encoder, Rope, Stack, Tag
from tfm.runtime.tasks import Model
from tfm.runtime.text.tokenizer import Tokenizer

KINDS = ("PER", "ORG", "LOC")
LABELS = ("O", *(f"{part}-{kind}" for kind in KINDS for part in "BI"))
CONTEXT = 96
NEW = 0.3  # of the names are made up
# Where {} stands there is a noun.
SENTENCES = (
    "PER lives in LOC.", "PER works for ORG in LOC.", "PER works at ORG.", "PER moved from LOC to LOC.",
    "ORG hired PER last year.", "ORG opened a new {} in LOC.", "PER and PER met in LOC.",
    "Shares of ORG fell after PER left.", "Nobody in LOC knows PER.", "The {} to LOC was built by ORG.",
    "PER wrote to PER about ORG.", "PER was born in LOC in 1990.", "Yesterday PER flew to LOC.",
    "The {} is LOC.", "LOC is a {} in LOC.", "It often rains in LOC.", "We visited LOC in May.",
    "PER, who lives in LOC, likes {}.", "ORG is based in LOC.", "ORG is a {} based in LOC.",
    "ORG and ORG signed a contract.", "I met PER at the {}.", "My {} PER studies in LOC.",
    "My name is PER and I live in LOC.", "The president of ORG, PER, spoke in LOC.",
    "Doctor PER works at the {} in LOC.", "PER sold ORG to PER.", "The {} from LOC to LOC was late.",
    "PER has a {} called PER.", "Last {} ORG bought ORG.", "PER said that ORG would leave LOC.",
    "He called PER from LOC.", "She works for ORG.", "They live near LOC.", "The {} was written by PER.",
    "PER won the {} in LOC.", "The {} of ORG is in LOC.", "PER sings and PER plays the {}.",
    "The {} was cold and it rained all day.", "The {} sleeps on the {}.", "I like this {} very much.",
    "We had a {} at seven and went home.", "PER is the {} of ORG.", "Is PER in LOC?", "PER teaches at ORG.",
    "PER visited ORG in LOC.", "PER likes {} and {}.", "Where is the {}?",
    "A {} and a {} stood in front of the {}.",
)  # fmt: skip
NOUNS = (
    "house", "car", "song", "book", "race", "friend", "sister", "brother", "tea", "music", "station",
    "office", "train", "road", "week", "month", "dog", "cat", "table", "hospital", "company", "city", "town",
    "capital", "head", "piano", "weather", "letter", "report", "shop", "school", "river", "garden", "dinner",
    "film", "game", "bridge", "museum",
)  # fmt: skip
SURNAMES = (
    "Miller", "Smith", "Brown", "Jones", "Taylor", "Wilson", "Baker", "Cook", "Hill", "Green", "King", "Lee",
    "Young", "Wood", "Clark", "Lopez", "Garcia", "Schmidt", "Weber", "Rossi", "Martin", "Silva", "Novak",
    "Khan",
)  # fmt: skip
COUNTRIES = (
    "France", "Germany", "Italy", "Spain", "Norway", "Ireland", "Portugal", "Greece", "Egypt", "Japan",
    "India", "Peru", "Canada", "Kenya", "Ghana", "Korea", "Cuba", "Poland", "Finland", "Austria", "England",
    "Scotland",
)  # fmt: skip
FIRMS = (
    "Acme", "Globex", "Nordwind", "Sunrise", "Bluestone", "Evergreen", "Pioneer", "Delta", "Orion", "Vega",
)  # fmt: skip
TRADES = (
    "Bank", "Motors", "Foods", "Airlines", "Software", "Energy", "Group", "Books", "Hotels", "Insurance",
)  # fmt: skip


def name(rng: np.random.Generator, kind: str, new: float) -> str:
    """A name of one to three words."""
    match kind:
        case "PER":
            first, last = known_or_new(rng, PEOPLE, new), known_or_new(rng, SURNAMES, new)
            return pick(rng, (first, first, f"{first} {last}", f"{first} {last}", last))
        case "LOC":
            place = known_or_new(rng, pick(rng, (CITIES, CITIES, COUNTRIES)), new)
            return pick(rng, (place,) * 8 + (f"New {place}", f"{place} Island"))
        case _:
            firm, trade = known_or_new(rng, FIRMS, new), pick(rng, TRADES)
            city = known_or_new(rng, CITIES, new)
            return pick(
                rng, (firm, f"{firm} {trade}", f"{firm} {trade}", f"{city} {trade}", f"University of {city}")
            )


def draw(rng: np.random.Generator, new: float = NEW) -> Example:
    """A sentence, and its entities as (kind, start, end)."""
    text, entities = "", []
    for part in re.split(f"({'|'.join(KINDS)})", pick(rng, SENTENCES)):
        written = name(rng, part, new) if part in KINDS else part
        while "{}" in written:
            written = written.replace("{}", known_or_new(rng, NOUNS, new), 1)
        if part in KINDS:
            entities.append((part, len(text), len(text) + len(written)))
        text += written
    return Example(text if rng.random() < 0.9 else text.rstrip("."), entities)


def tokenizer(_: Iterable[str]) -> str:
    return words.tokenizer(example.text for example in words.drawn(draw))


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
    return [[(e.label, e.start, e.end) for e in entities] for entities in model.tag(texts)]


def f1(predicted: Sequence[list], expected: Sequence[list]) -> float:
    """2 · common / (found + wanted), of whole entities with kind and characters (CoNLL's measure)."""
    common = sum(len(set(f) & set(w)) for f, w in zip(predicted, expected, strict=True))
    return 2 * common / max(sum(map(len, (*predicted, *expected))), 1)


TASK = Task("demo-tag", "F1", 1000, draw, tokenizer, config, row, answers, f1, LABELS)
