"""Names, and a tokenizer of whole words, that several demo models share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from string import ascii_letters, digits, punctuation
from typing import TypeVar

import numpy as np
from task import Example
from tfm.refimpl.checkpoint.tokenizers.tokenizer import Tokenizer

T = TypeVar("T")

UNKNOWN, START, END, MASK = MARKS = ("[UNK]", "[CLS]", "[SEP]", "[MASK]")  # their ids are 0 to 3
LETTERS = ascii_letters + digits + "äöüÄÖÜßéèêàçôû"

PEOPLE = (
    "Ada", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ivy", "Jack", "Karen", "Leo",
    "Maria", "Noah", "Olivia", "Peter", "Quentin", "Rosa", "Simon", "Tina", "Uma", "Victor", "Wendy",
    "Xavier", "Yara", "Zoe", "Alice", "Bob", "Carol", "Daniel", "Elena", "Frank", "Gina", "Hugo", "Irene",
    "John", "Kate", "Lucy", "Mark", "Nina", "Oscar", "Paula", "Robert", "Sarah", "Thomas", "Vera", "Walter",
    "Anna", "Max", "Mary",
)  # fmt: skip
CITIES = (
    "London", "Paris", "Berlin", "Rome", "Madrid", "Vienna", "Oslo", "Dublin", "Lisbon", "Prague", "Athens",
    "Cairo", "Tokyo", "Delhi", "Lima", "Boston", "Chicago", "Dallas", "Denver", "Leeds", "York", "Bristol",
    "Oxford", "Glasgow", "Hamburg", "Munich", "Cologne", "Lyon", "Nice", "Milan", "Naples", "Turin", "Geneva",
    "Zurich", "Seville", "Porto", "Warsaw", "Krakow", "Riga", "Helsinki", "Sydney", "Toronto", "Nairobi",
    "Accra", "Seoul", "Hanoi", "Quito", "Havana", "Tunis", "Kyoto",
)  # fmt: skip
# What made-up words are made of.
BEGINS = (
    *"bcdfghjklmnprstvwyz",
    "br",
    "ch",
    "cl",
    "cr",
    "dr",
    "fr",
    "gr",
    "kr",
    "ph",
    "pl",
    "qu",
    "sh",
    "st",
    "th",
    "",
)
VOWELS = (*"aeiou", *"aeiou", "ai", "ea", "ee", "ia", "ie", "io", "oo", "ou")
ENDS = ("", "", "", *"bcdfgklmnprstxyz", "ck", "ft", "ll", "ng", "nd", "rt", "ss", "tt")


def pick(rng: np.random.Generator, some: Sequence[T]) -> T:
    """One of them, each as likely."""
    return some[rng.integers(len(some))]


def known_or_new(rng: np.random.Generator, names: Sequence[str], new: float) -> str:
    """One of the words, or with probability `new` one of two or three syllables that is made up."""
    if rng.random() >= new:
        return pick(rng, names)
    count = int(rng.integers(2, 4))
    word = "".join(pick(rng, BEGINS) + pick(rng, VOWELS) for _ in range(count)) + pick(rng, ENDS)
    return word.capitalize() if names[0][0].isupper() else word


def drawn(draw: Callable[[np.random.Generator, float], Example]) -> list[Example]:
    """Enough examples without words that are made up to find nearly all words of a world."""
    rng = np.random.default_rng(0)
    return [draw(rng, 0.0) for _ in range(6000)]


def tokenizer(texts: Iterable[str], *, lower: bool = False, added: Sequence[str] = ()) -> str:
    """tokenizer.json of BERT's form: each word of the texts is a token, and so are those of `added`; letters
    make up other words."""
    letters = dict.fromkeys([*LETTERS, *punctuation, *(f"##{letter}" for letter in LETTERS)])
    normalizer = {"type": "Lowercase"} if lower else None
    split = {"type": "BertPreTokenizer"}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    first, second = ({"Sequence": {"id": part, "type_id": i}} for i, part in enumerate("AB"))
    start, end, last = (
        {"SpecialToken": {"id": mark, "type_id": i}} for mark, i in ((START, 0), (END, 0), (END, 1))
    )
    definition = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": normalizer,
        "added_tokens": [
            {"id": i, "content": mark, **flags, "special": True} for i, mark in enumerate(MARKS)
        ],
        "pre_tokenizer": split,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, first, end],
            "pair": [start, first, end, second, last],
            "special_tokens": {
                mark: {"id": mark, "ids": [MARKS.index(mark)], "tokens": [mark]} for mark in (START, END)
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": UNKNOWN, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 40, "vocab": {mark: i for i, mark in enumerate(MARKS)},
        },
    }  # fmt: skip
    splitter = Tokenizer(definition)
    words = {word.text for text in texts for word in splitter.pre_tokenize(text)}
    pieces = [*MARKS, *added, *letters, *sorted(words - {*MARKS, *letters})]
    definition["model"]["vocab"] = {piece: i for i, piece in enumerate(pieces)}
    return json.dumps(definition, ensure_ascii=False)
