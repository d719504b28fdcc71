"""An endless text in which people go to places; who is mentioned, and where they are, changes.

The next person is one of a few, and their place was mentioned before: so predicting well takes attention.
"""

from __future__ import annotations

import numpy as np

NAMES = (
    "ada", "ben", "cleo", "dora", "emil", "fay", "gus", "hana", "ivo", "jon", "kim", "lea", "max", "nora",
    "otto", "pia", "rosa", "sam", "tina", "uma", "vera", "will", "yara", "zoe",
)  # fmt: skip
PLACES = (
    "rome", "bath", "york", "oslo", "lima", "cairo", "delhi", "kyoto", "paris", "quito", "seoul", "tunis",
    "vienna", "warsaw", "zurich", "accra", "berlin", "dublin", "geneva", "havana", "jena", "kiel",
)  # fmt: skip
WAYS = ("is in", "stays in", "sings in", "works in")
KNOWN = 4  # people who are spoken of at a time
CHANGE = 0.1  # the share of sentences before which one of them gives way to another, elsewhere


def story(rng: np.random.Generator, sentences: int) -> str:
    """So many sentences of it."""
    draw = lambda some: some[rng.integers(len(some))]  # noqa: E731
    where: dict[str, str] = {}
    text = []
    for _ in range(sentences):
        if len(where) == KNOWN and rng.random() < CHANGE:
            del where[draw(list(where))]
        while len(where) < KNOWN:
            where[draw(NAMES)] = draw(PLACES)
        who = draw(list(where))
        text.append(f"{who} {draw(WAYS)} {where[who]}.")
    return " ".join(text)
