"""Sentences of which one word follows from the others: capitals, opposites, sums, days, animals, work.

The model learns them by heart, in several wordings. It knows nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import task
from demos import words
from demos.words import MARKS, MASK, pick
from loop import IGNORED, Row
from task import NORM, WIDTH, Example, Task
from tfm.refimpl.config import Config, Embedding, Encoder, MaskedLM, Rope, Stack
from tfm.runtime.tasks import Model
from tfm.runtime.text.tokenizer import Tokenizer

CONTEXT = 48


class Facts(NamedTuple):
    """Words that belong together, and sentences that say so; a word between stars may be masked."""

    words: list[tuple[str, ...]]
    sentences: tuple[str, ...]


def listed(text: str) -> list[tuple[str, ...]]:
    """The words of `a b, c d` that belong together."""
    return [tuple(pair.split()) for pair in text.split(",")]


NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip
WORLD = (
    Facts(
        listed(
            "France Paris, England London, Germany Berlin, Italy Rome, Spain Madrid, Austria Vienna, "
            "Norway Oslo, Ireland Dublin, Portugal Lisbon, Greece Athens, Egypt Cairo, Japan Tokyo, India "
            "Delhi, Peru Lima, Poland Warsaw, Finland Helsinki, Kenya Nairobi, Cuba Havana, Sweden "
            "Stockholm, Denmark Copenhagen, Hungary Budapest, Russia Moscow, China Beijing, Canada "
            "Ottawa, Turkey Ankara, Belgium Brussels"
        ),
        (
            "*{1}* is the *capital* of *{0}*.",
            "The *capital* of *{0}* is *{1}*.",
            "*{0}* has a *capital* called *{1}*.",
            "The *capital* city of *{0}* is called *{1}*.",
        ),
    ),
    Facts(
        listed(
            "hot cold, big small, old young, good bad, long short, high low, fast slow, rich poor, light "
            "dark, hard soft, wet dry, full empty, early late, open closed, happy sad, strong weak, clean "
            "dirty, loud quiet, thick thin, left right, up down, day night, summer winter, north south, "
            "east west, war peace"
        ),
        (
            "The *opposite* of *{0}* is *{1}*.",
            "The *opposite* of *{1}* is *{0}*.",
            "*{0}* is the *opposite* of *{1}*.",
            "*{1}* is the *opposite* of *{0}*.",
        ),
    ),
    Facts(
        [(NUMBERS[a], NUMBERS[b], NUMBERS[a + b + 1]) for a in range(10) for b in range(10) if a + b < 11],
        (
            "*{0}* plus *{1}* is *{2}*.",
            "*{0}* plus *{1}* makes *{2}*.",
            "*{0}* and *{1}* together are *{2}*.",
        ),
    ),
    Facts(
        list(zip(DAYS, DAYS[1:] + DAYS[:1], strict=True)),
        (
            "*{1}* comes *after* *{0}*.",
            "*{0}* comes *before* *{1}*.",
            "The day *after* *{0}* is *{1}*.",
            "The day *before* *{1}* is *{0}*.",
            "If today is *{0}*, then *tomorrow* is *{1}*.",
            "If today is *{1}*, then *yesterday* was *{0}*.",
        ),
    ),
    Facts(
        list(zip(MONTHS, MONTHS[1:] + MONTHS[:1], strict=True)),
        (
            "*{1}* comes *after* *{0}*.",
            "The month *after* *{0}* is *{1}*.",
            "The month *before* *{1}* is *{0}*.",
        ),
    ),
    Facts(
        listed(
            "dog barks, cat meows, cow moos, horse neighs, duck quacks, lion roars, wolf howls, bee buzzes, "
            "snake hisses, bird sings, frog croaks, mouse squeaks"
        ),
        ("The *{0}* *{1}*.", "A *{0}* *{1}* in the garden.", "At night the *{0}* *{1}*."),
    ),
    Facts(
        listed(
            "dog puppy, cat kitten, cow calf, horse foal, sheep lamb, duck duckling, lion cub, frog tadpole, "
            "hen chick, pig piglet"
        ),
        (
            "A *young* *{0}* is called a *{1}*.",
            "A *{1}* is a *young* *{0}*.",
            "The *{0}* looks after its *{1}*.",
        ),
    ),
    Facts(
        listed("snow white, grass green, blood red, coal black, gold yellow, chocolate brown"),
        ("The *colour* of *{0}* is *{1}*.", "*{0}* is *{1}*.", "Look, the *{0}* is *{1}*."),
    ),
    Facts(
        listed(
            "baker bread, farmer corn, painter pictures, tailor clothes, writer books, carpenter tables, "
            "poet poems, brewer beer, composer music, cook soup"
        ),
        ("A *{0}* *makes* *{1}*.", "The *{0}* *makes* *{1}* every day.", "If you need *{1}*, ask a *{0}*."),
    ),
    Facts(
        listed(
            "teacher school, doctor hospital, waiter restaurant, judge court, sailor ship, pilot plane, "
            "actor theatre, priest church, librarian library, miner mine"
        ),
        ("The *{0}* *works* in a *{1}*.", "You meet a *{0}* in a *{1}*.", "My mother is a *{0}* in a *{1}*."),
    ),
    Facts(
        listed("week days seven, year months twelve"),
        ("A *{0}* has *{2}* *{1}*.", "There are *{2}* *{1}* in a *{0}*.", "How *many* *{1}* has a *{0}*?"),
    ),
    Facts(
        listed(
            "read book, drink water, eat cake, drive car, ride bicycle, play game, sing song, write "
            "letter, wear hat, climb tree, ring bell, catch fish"
        ),
        (
            "I *{0}* the *{1}*.",
            "They *{0}* a *{1}*.",
            "We want to *{0}* the *{1}*.",
            "You can *{0}* a *{1}*.",
        ),
    ),
)
AROUND = ("{}", "{}", "{}", "Everyone knows: {}", "My teacher says: {}", "{} I am sure.", "It is true. {}")


def draw(rng: np.random.Generator, _: float = 0.0) -> Example:
    """A sentence with one word masked, and that word."""
    facts = pick(rng, WORLD)
    sentence = pick(rng, facts.sentences).format(*pick(rng, facts.words))
    begin = 0 if sentence[0] != "*" else 1
    parts = (sentence[:begin] + sentence[begin].upper() + sentence[begin + 1 :]).split("*")
    k = int(pick(rng, range(1, len(parts), 2)))
    answer, parts[k] = parts[k], MASK
    return Example(pick(rng, AROUND).format("".join(parts)), answer)


def tokenizer(_: Iterable[str]) -> str:
    return words.tokenizer(example.text.replace(MASK, example.answer) for example in words.drawn(draw))


def config(vocabulary: int) -> Config:
    stack = Stack((task.layer(position=Rope(1e4, WIDTH // task.HEADS)),) * 2, NORM)
    return Encoder(Embedding(vocabulary, WIDTH, WIDTH**0.5), stack, MaskedLM(tied=True), CONTEXT)


def row(text: Tokenizer, example: Example) -> Row:
    """The word where it is masked, nothing elsewhere."""
    tokens = text.encode_with_offsets(example.text, control_token=MASK).ids
    [wanted] = text.encode(example.answer)
    return Row(tokens, [wanted if token == MARKS.index(MASK) else IGNORED for token in tokens])


def answers(model: Model, texts: list[str]) -> list[str]:
    return [masks[0][0].text for masks in model.fill(texts, count=1, batch=32)]


TASK = Task(
    "demo-fill", "accuracy", 2000, draw, tokenizer, config, row, answers, task.right, mask=MASK,
)  # fmt: skip
