"""Short news and their headlines: what happened, where, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import task
from demos import pair, words
from demos.words import CITIES, PEOPLE, pick
from task import Example, Task

NUMBERS = (
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "twenty", "thirty",
)  # fmt: skip
SLOTS = {
    "city": CITIES,
    "person": PEOPLE,
    "number": NUMBERS,
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "time": ("morning", "evening", "night", "afternoon"),
    "building": ("bakery", "factory", "school", "hotel", "warehouse", "theatre", "library", "museum", "inn"),
    "shop": ("bank", "jeweller", "bookshop", "museum", "supermarket", "post office", "gallery"),
    "loot": ("money", "jewels", "paintings", "watches", "rare books", "gold coins"),
    "new": ("library", "school", "hospital", "bridge", "museum", "swimming pool", "theatre", "park"),
    "workers": ("teachers", "nurses", "bus drivers", "pilots", "bakers", "miners", "train drivers"),
    "animal": ("lion", "snake", "monkey", "bear", "wolf", "crocodile", "parrot", "kangaroo"),
    "sport": ("football", "tennis", "chess", "handball", "hockey", "basketball"),
    "find": ("coins", "bones", "walls", "graves", "tools", "weapons"),
    "weather": ("storm", "flood", "snowstorm", "thunderstorm"),
}  # fmt: skip


class Event(NamedTuple):
    """A kind of news: how it may begin, go on and end, and its headline; an end adds its words to it."""

    begins: tuple[str, ...]
    follows: tuple[str, ...]
    ends: dict[str, str]
    headline: str


EVENTS = (
    Event(
        (
            "A fire broke out in a {building} in {city} on {day} {time}.",
            "On {day} {time} a fire broke out in a {building} in {city}.",
            "A {building} in {city} caught fire on {day}.",
        ),
        (
            "{Number} firefighters fought the flames for {number} hours.",
            "The smoke could be seen for miles.",
            "The police are looking for the cause.",
            "The building was empty at the time.",
            "Neighbours had called for help.",
        ),
        {
            "Nobody was hurt.": "nobody hurt",
            "{Number} people were hurt.": "{number} hurt",
            "The roof fell in.": "roof destroyed",
            "{Person} saved {number} children.": "{person} saves {number} children",
        },
        "Fire in {city} {building}",
    ),
    Event(
        (
            "Thieves broke into a {shop} in {city} on {day} {time}.",
            "A {shop} in {city} was robbed on {day} {time}.",
            "On {day} thieves robbed a {shop} in {city}.",
        ),
        (
            "They took {loot}.",
            "They came through a window.",
            "The alarm did not ring.",
            "{Number} police officers searched the area.",
            "A neighbour saw a white van.",
        ),
        {
            "The thieves were caught after {number} hours.": "thieves caught",
            "The thieves escaped.": "thieves escape",
            "A guard was hurt.": "guard hurt",
        },
        "Thieves rob {city} {shop}",
    ),
    Event(
        (
            "A new {new} was opened in {city} on {day}.",
            "On {day} {city} opened its new {new}.",
            "{City} has a new {new} since {day}.",
        ),
        (
            "It took {number} years to build.",
            "It cost {number} million.",
            "{Number} hundred people came to see it.",
            "The mayor cut the ribbon.",
            "The old one had been closed for {number} years.",
        ),
        {
            "Entry is free for children.": "free for children",
            "Neighbours complain about the noise.": "neighbours complain",
            "It was planned by {person}.": "planned by {person}",
        },
        "{City} opens new {new}",
    ),
    Event(
        (
            "The {workers} of {city} went on strike on {day}.",
            "On {day} the {workers} in {city} began a strike.",
            "Since {day} the {workers} of {city} have been on strike.",
        ),
        (
            "They want more money.",
            "They want shorter days.",
            "{Number} hundred of them marched to the town hall.",
            "The mayor asked for patience.",
        ),
        {
            "The strike will last {number} days.": "{number} days planned",
            "Talks begin on {day}.": "talks begin",
            "There are no talks yet.": "no talks yet",
        },
        "{City} {workers} on strike",
    ),
    Event(
        (
            "A {animal} escaped from the zoo in {city} on {day} {time}.",
            "On {day} a {animal} escaped from the zoo of {city}.",
            "The zoo of {city} has lost a {animal}.",
        ),
        (
            "Somebody had left a door open.",
            "People were told to stay at home.",
            "It was seen near the station.",
            "{Number} keepers searched for it.",
        ),
        {
            "It was found in a garden.": "found in garden",
            "It is still missing.": "still missing",
            "{Person} caught it with a net.": "caught by {person}",
        },
        "{Animal} escapes from {city} zoo",
    ),
    Event(
        (
            "{Person} from {city} won the {sport} cup on {day}.",
            "On {day} {person} from {city} won the {sport} cup.",
            "The {sport} cup goes to {person} from {city}.",
        ),
        (
            "The final lasted {number} hours.",
            "{Number} thousand people watched.",
            "It rained during the final.",
            "The crowd sang all night.",
        ),
        {
            "It was the first title.": "first title",
            "It was another title for {city}.": "another title",
            "The trainer cried with joy.": "trainer in tears",
        },
        "{Person} wins {sport} cup",
    ),
    Event(
        (
            "Workers found old {find} under a street in {city} on {day}.",
            "On {day} old {find} were found in {city}.",
            "Builders in {city} have found old {find}.",
        ),
        (
            "They lay {number} metres deep.",
            "The street is closed.",
            "Experts came from {city}.",
            "They are {number} hundred years old.",
        ),
        {
            "They will be shown in a museum.": "museum planned",
            "Work has stopped for {number} weeks.": "work stopped",
            "{Person} studies them.": "{person} studies them",
        },
        "Old {find} found in {city}",
    ),
    Event(
        (
            "A {weather} hit {city} on {day} {time}.",
            "On {day} a {weather} hit {city}.",
            "{City} was hit by a {weather} on {day} {time}.",
        ),
        (
            "{Number} trees fell.",
            "Cellars were full of water.",
            "The wind blew for {number} hours.",
            "Many people spent the night in a school.",
        ),
        {
            "There is no power.": "no power",
            "Trains are not running.": "no trains",
            "Schools are closed.": "schools closed",
            "{Number} people were hurt.": "{number} hurt",
        },
        "{Weather} hits {city}",
    ),
)


def filled(rng: np.random.Generator) -> dict[str, str]:
    """A value for each slot, and the same with a capital for the slot's name with a capital."""
    slots = {name: pick(rng, values) for name, values in SLOTS.items()}
    return slots | {name.capitalize(): value[0].upper() + value[1:] for name, value in slots.items()}


def draw(rng: np.random.Generator, _: float = 0.0) -> Example:
    """Three to five sentences of one event, and their headline."""
    event, slots = pick(rng, EVENTS), filled(rng)
    end, told = pick(rng, list(event.ends.items()))
    order = rng.permutation(len(event.follows))[: rng.integers(1, 4)]
    follows = [event.follows[i].format(**filled(rng)) for i in order]
    follows.insert(int(rng.integers(len(follows) + 1)), end.format(**slots))
    text = " ".join((pick(rng, event.begins).format(**slots), *follows))
    return Example(text, f"{event.headline}, {told}".format(**slots))


def tokenizer(_: Iterable[str]) -> str:
    return words.tokenizer(part for example in words.drawn(draw) for part in example)


TASK = Task(
    "demo-summarize",
    "exact",
    1200,
    draw,
    tokenizer,
    pair.config,
    pair.row,
    pair.answers,
    task.right,
    rules=pair.RULES,
)
