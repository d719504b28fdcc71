"""Opinions in short sentences: positive, negative, or neutral where nothing is judged.

"not" turns an opinion round, and where "but" joins two, the second one counts.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import task
from demos import words
from demos.words import known_or_new, pick
from loop import Row
from task import NORM, WIDTH, Example, Task
from tfm.refimpl.config import Classify, Config, Embedding, Encoder, Rope, Stack
from tfm.runtime.tasks import Model
from tfm.runtime.text.tokenizer import Tokenizer

LABELS = ("negative", "neutral", "positive")
CONTEXT = 64
NEW = 0.15  # of the things are words that the model hasn't seen
ONE = (
    "food", "room", "hotel", "staff", "view", "music", "price", "garden", "film", "movie", "book", "story",
    "coffee", "breakfast", "lunch", "dinner", "service", "waiter", "phone", "camera", "screen", "battery",
    "app", "game", "song", "concert", "teacher", "lesson", "course", "train", "flight", "seat", "trip",
    "beach", "city", "weather", "house", "kitchen", "bed", "shower", "pizza", "soup", "cake", "salad",
    "wine", "tea", "restaurant", "shop", "delivery", "package", "jacket", "museum", "party", "play", "show",
    "plot", "ending", "acting", "place", "product", "car", "bike", "doctor", "driver", "manager", "team",
    "laptop", "sound", "chair",
)  # fmt: skip
MANY = (
    "rooms", "waiters", "shoes", "songs", "actors", "players", "seats", "lessons", "pictures", "people",
    "beds", "prices", "windows", "drinks", "desserts", "books", "games", "teachers", "colours", "headphones",
    "fries",
)  # fmt: skip
GOOD = (
    "good", "great", "lovely", "superb", "pleasant", "charming", "splendid", "delightful", "nice",
    "excellent", "wonderful", "fantastic", "amazing", "perfect", "beautiful", "brilliant", "delicious",
    "tasty", "friendly", "helpful", "kind", "clean", "comfortable", "cheerful", "funny", "exciting",
    "interesting", "clever", "fresh", "fast", "reliable", "fair", "impressive", "outstanding", "awesome",
    "cosy", "elegant", "fun", "enjoyable", "touching", "smooth", "polite", "generous", "magical", "terrific",
    "fine", "better than expected",
)  # fmt: skip
BAD = (
    "bad", "awful", "dull", "horrible", "dreadful", "poor", "shabby", "disappointing", "terrible", "boring",
    "dirty", "rude", "slow", "ugly", "noisy", "expensive", "overpriced", "cold", "stale", "bland", "broken",
    "useless", "unfriendly", "unfair", "weak", "annoying", "stupid", "silly", "confusing", "uncomfortable",
    "unpleasant", "disgusting", "mediocre", "tiring", "late", "lazy", "worse than expected", "a disaster",
    "a mess", "unreliable", "cheap and nasty", "too long", "too loud", "too small", "predictable", "wrong",
)  # fmt: skip
HOW = (
    "", "", "", "very ", "really ", "so ", "quite ", "absolutely ", "extremely ", "truly ", "simply ",
    "just ",
)  # fmt: skip
NOT = ("not ", "not very ", "not really ", "never ", "not at all ", "hardly ")
LIKED = (
    "i love {}", "i loved {}", "i like {}", "i really liked {}", "we enjoyed {}",
    "i enjoyed every minute of {}", "{} made me happy", "{} made us smile", "i would recommend {}",
    "i can only praise {}", "we all adored {}", "thank you for {}", "{} was worth every penny",
    "i am happy with {}", "i am a big fan of {}",
)  # fmt: skip
DISLIKED = (
    "i hate {}", "i hated {}", "i disliked {}", "{} made me angry", "{} made us sad", "i regret {}",
    "{} was a waste of time", "{} was a waste of money", "i am tired of {}", "i complained about {}",
    "{} broke after two days", "{} did not work", "i am unhappy with {}", "{} ruined our evening",
)  # fmt: skip
NOT_LIKED = (
    "i do not like {}", "i did not like {}", "i didn't like {}", "i don't love {}",
    "i would not recommend {}", "we did not enjoy {}", "i can't recommend {}",
)  # fmt: skip
NOT_DISLIKED = ("i did not hate {}", "i can't complain about {}", "i do not regret {}", "i didn't dislike {}")
PRAISE = (
    "we had a great time", "we will come back", "i would come back", "five stars", "well done",
    "everyone was kind", "i laughed a lot", "i can't wait to go again", "it was the best day of my life",
    "this is my favourite", "it works well",
)  # fmt: skip
BLAME = (
    "i left early", "never again", "i want my money back", "we waited for an hour", "nobody helped us",
    "one star", "i fell asleep", "stay away", "it was the worst day of my life", "i will not come back",
)  # fmt: skip
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "twenty")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
COLOURS = ("red", "green", "blue", "black", "white", "grey", "brown", "yellow")
MATERIALS = ("wood", "glass", "paper", "steel", "stone", "cotton")
FACTS = (
    "the {one} is {colour}", "the {one} was {colour}", "the {many} are {colour}",
    "the {one} is made of {material}", "the {one} starts at {number}", "the {one} opens at {number}",
    "the {one} ends on {day}", "there are {number} {many}", "there is a {one} in the {one}",
    "we saw the {one} on {day}", "the {one} is next to the {one}", "i bought the {one} on {day}",
    "she has {number} {many}", "he took the {one} to the {one}", "the {one} has {number} {many}",
    "my {one} is in the {one}", "they live near the {one}", "we ordered {number} {many}",
    "the {one} leaves on {day}", "i am reading about the {one}", "he asked me about the {one}",
)  # fmt: skip


def fact(rng: np.random.Generator, new: float) -> str:
    """A sentence that judges nothing."""
    text = pick(rng, FACTS)
    for slot, some in (("number", NUMBERS), ("day", DAYS), ("colour", COLOURS), ("material", MATERIALS)):
        text = text.replace(f"{{{slot}}}", pick(rng, some))
    while "{one}" in text:
        text = text.replace("{one}", known_or_new(rng, ONE, new), 1)
    return text.replace("{many}", pick(rng, MANY))


def opinion(rng: np.random.Generator, good: bool, new: float) -> str:
    """A clause that judges a thing."""
    noun = known_or_new(rng, ONE, new)
    thing = f"{pick(rng, ('the', 'this', 'my', 'our', 'your'))} {noun}"
    form = pick(rng, ("phrase", "verb", "turned verb", "what", "many", "is", "is", "is", "isn't", "isn't"))
    match form:
        case "phrase":
            return pick(rng, PRAISE if good else BLAME)
        case "verb":
            return pick(rng, LIKED if good else DISLIKED).format(thing)
        case "turned verb":
            return pick(rng, NOT_DISLIKED if good else NOT_LIKED).format(thing)
        case "what":
            quality = pick(rng, [word for word in (GOOD if good else BAD) if " " not in word])
            return pick(rng, (f"what {'an' if quality[0] in 'aeiou' else 'a'} ", "")) + f"{quality} {noun}"
        case "many":
            quality = pick(rng, GOOD if good else BAD)
            return f"the {pick(rng, MANY)} {pick(rng, ('are', 'were'))} {pick(rng, HOW)}{quality}"
        case "is":
            verb, how, quality = pick(rng, ("is", "was", "was", "seems", "looks")), HOW, GOOD if good else BAD
        case _:
            verb, how, quality = pick(rng, ("is", "was", "isn't", "wasn't")), NOT, BAD if good else GOOD
            how = ("", "very ") if "n't" in verb else how
    return f"{pick(rng, (thing, thing, thing, 'it'))} {verb} {pick(rng, how)}{pick(rng, quality)}"


def draw(rng: np.random.Generator, new: float = NEW) -> Example:
    """One or two clauses, and their label; `new` is the share of things that are made up."""
    label = pick(rng, LABELS)
    count, end = int(rng.integers(1, 3)), pick(rng, ("", ".", ".", "!"))
    if label == "neutral":
        clauses = [fact(rng, new) for _ in range(count)]
        return Example(pick(rng, (" and ", ". ", ", ")).join(clauses) + end, label)
    good = label == "positive"
    clauses = [opinion(rng, good, new) for _ in range(count)]
    joint = pick(rng, (" and ", ". ", ", ", "! "))
    match rng.integers(6):
        case 0:
            clauses, joint = [opinion(rng, not good, new), clauses[0]], pick(rng, (", but ", " but "))
        case 1:
            clauses.insert(int(rng.integers(count + 1)), fact(rng, new))
    return Example(joint.join(clauses) + end, label)


def tokenizer(_: Iterable[str]) -> str:
    return words.tokenizer((example.text for example in words.drawn(draw)), lower=True)


def config(vocabulary: int) -> Config:
    stack = Stack((task.layer(position=Rope(1e4, WIDTH // task.HEADS)),) * 2, NORM)
    return Encoder(Embedding(vocabulary, WIDTH, WIDTH**0.5), stack, Classify(len(LABELS), "max"), CONTEXT)


def row(text: Tokenizer, example: Example) -> Row:
    return Row(text.encode(example.text, add_special_tokens=True), [LABELS.index(example.answer)])


def answers(model: Model, texts: list[str]) -> list[str]:
    return [labels[0].label for labels in model.classify(texts)]


TASK = Task("demo-classify", "accuracy", 800, draw, tokenizer, config, row, answers, task.right, LABELS)
