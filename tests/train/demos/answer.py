"""Short texts about two or three people, and questions whose answer stands in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import task
from demos import words
from demos.words import CITIES, PEOPLE, known_or_new, pick
from loop import Row
from task import NORM, WIDTH, Example, Task
from tfm.refimpl.config import Config, Embedding, Encoder, QuestionAnswering, Rope, Stack
from tfm.runtime.tasks import Model
from tfm.runtime.text.tokenizer import Tokenizer

CONTEXT = 128
NEW = 0.1  # of the names are made up
MOST = 3  # people in a text
JOBS = (
    "teacher", "doctor", "nurse", "baker", "farmer", "painter", "pilot", "judge", "waiter", "cook", "writer",
    "singer", "driver", "lawyer", "tailor", "gardener", "plumber", "dentist", "soldier", "journalist",
)  # fmt: skip
LIKES = (
    "tea", "coffee", "music", "chess", "football", "cake", "soup", "apples", "cats", "dogs", "books", "films",
    "tennis", "rice", "fish", "flowers", "trains", "horses", "jazz", "cheese",
)  # fmt: skip
THINGS = (
    "car", "house", "bicycle", "boat", "horse", "piano", "guitar", "lamp", "table", "coat", "hat", "watch",
    "camera", "tent", "ladder", "clock", "garden", "shop", "farm", "ring",
)  # fmt: skip
COLOURS = ("red", "green", "blue", "black", "white", "new", "small", "big", "yellow", "cheap")
BOOKS = (
    "The Red House", "A Long Winter", "The Last Train", "Silent Rivers", "The Glass Garden",
    "Under the Bridge",
)  # fmt: skip
PLAIN = (
    "The weather was cold.", "It rained all day.", "The streets were empty.", "Nobody was surprised.",
    "They are good friends.", "It was a quiet evening.", "They met at the station.",
)  # fmt: skip
# What is said of a person, and the questions about it, whose answer is the slot behind them.
TOLD = (
    (
        ("{who} lives in {city}.", "{who} has lived in {city} for ten years.", "{who} moved to {city}."),
        (
            ("Where does {who} live?", "city"),
            ("Who lives in {city}?", "who"),
            ("In which city does {who} live?", "city"),
        ),
    ),
    (
        ("{who} works as a {job}.", "{who} is a {job}.", "{who} became a {job}."),
        (("What is {who}'s job?", "job"), ("Who is a {job}?", "who"), ("What does {who} work as?", "job")),
    ),
    (
        ("{who} was born in {year}.", "{who} was born in the year {year}."),
        (
            ("When was {who} born?", "year"),
            ("Who was born in {year}?", "who"),
            ("In which year was {who} born?", "year"),
        ),
    ),
    (
        ("{who} likes {likes}.", "{who} loves {likes}.", "{who} is fond of {likes}."),
        (
            ("What does {who} like?", "likes"),
            ("Who likes {likes}?", "who"),
            ("What does {who} love?", "likes"),
        ),
    ),
    (
        ("{who} bought a {thing}.", "{who} has a {thing}.", "Last week {who} bought a {thing}."),
        (
            ("What did {who} buy?", "thing"),
            ("Who bought a {thing}?", "who"),
            ("Who has a {thing}?", "who"),
            ("What does {who} have?", "thing"),
        ),
    ),
    (
        ("{who} wrote {book}.", "The book {book} was written by {who}.", "{book} was written by {who}."),
        (
            ("Who wrote {book}?", "who"),
            ("What did {who} write?", "book"),
            ("Who is the author of {book}?", "who"),
        ),
    ),
)


def different(draw_one: Callable[[], str], count: int) -> list[str]:
    """So many values that differ."""
    values: list[str] = []
    while len(values) < count:
        if (value := draw_one()) not in values:
            values.append(value)
    return values


def draw(rng: np.random.Generator, new: float = NEW) -> Example:
    """(Question, text), and the characters (start, end) of the answer in the text."""
    values = {
        "who": different(lambda: known_or_new(rng, PEOPLE, new), MOST),
        "city": different(lambda: known_or_new(rng, CITIES, new), MOST),
        "job": different(lambda: pick(rng, JOBS), MOST),
        "year": different(lambda: str(rng.integers(1900, 2020)), MOST),
        "likes": different(lambda: pick(rng, LIKES), MOST),
        "thing": different(lambda: f"{pick(rng, COLOURS)} {pick(rng, THINGS)}", MOST),
        "book": different(lambda: pick(rng, BOOKS), MOST),
    }
    # What is asked of one person is told of others too: the name must be matched, not only the question.
    topics = pick(rng, (1, 1, 2))
    people = 2 if topics == 2 else int(rng.integers(2, MOST + 1))
    told = [
        ({name: some[i] for name, some in values.items()}, TOLD[k])
        for k in rng.permutation(len(TOLD))[:topics]
        for i in range(people)
    ]
    told = [told[i] for i in rng.permutation(len(told))]
    sentences = [pick(rng, forms).format(**of_one) for of_one, (forms, _) in told]
    if rng.random() < 0.4:
        sentences[rng.integers(len(sentences))] += f" {pick(rng, PLAIN)}"
    k = int(rng.integers(len(told)))
    of_one, (_, questions) = told[k]
    question, slot = pick(rng, questions)
    start = sum(len(sentence) + 1 for sentence in sentences[:k]) + sentences[k].index(of_one[slot])
    end = start + len(of_one[slot])
    return Example((question.format(**of_one), " ".join(sentences)), (start, end))


def tokenizer(_: Iterable[str]) -> str:
    years = " ".join(str(year) for year in range(1900, 2020))
    return words.tokenizer([years, *(" ".join(example.text) for example in words.drawn(draw))])


def config(vocabulary: int) -> Config:
    near = task.layer(position=Rope(1e4, WIDTH // task.HEADS))
    stack = Stack((task.layer(), near, near), NORM)  # the first compares words, wherever they are
    embedding = Embedding(vocabulary, WIDTH, 3.0, token_types=2)
    return Encoder(embedding, stack, QuestionAnswering(), CONTEXT)


def row(text: Tokenizer, example: Example) -> Row:
    """The places of the answer's first and last token."""
    encoding = text.encode_with_offsets(*example.text)
    start, end = example.answer
    inside = [
        i
        for i, (first, _) in enumerate(encoding.offsets)
        if encoding.sequence_ids[i] == 1 and start <= first < end
    ]
    return Row(encoding.ids, [inside[0], inside[-1]], types=encoding.type_ids)


def answers(model: Model, texts: list[tuple[str, str]]) -> list[tuple[int, int]]:
    return [(spans[0].start, spans[0].end) for spans in model.answer(texts)]


TASK = Task("demo-answer", "exact", 800, draw, tokenizer, config, row, answers, task.right, alike=True)
