"""Reversal: an encoder reads a word, a decoder writes it from its end; reversed again it is the word."""

from __future__ import annotations

import json
from collections.abc import Iterable
from string import ascii_lowercase

import numpy as np
import task
from loop import Row
from task import NORM, WIDTH, Example, Task
from tfm.refimpl.config import LM, Config, Embedding, EncoderDecoder, Layer, Sinusoidal, Stack
from tfm.refimpl.tokenizers import training
from tfm.runtime.tasks import Model
from tfm.runtime.text.tokenizer import Tokenizer

START, END = "<s>", "</s>"
LONGEST = 10
CONTEXT = 32


def draw(rng: np.random.Generator, longest: int = LONGEST, letters: str = ascii_lowercase) -> Example:
    """A word of random letters and its reverse."""
    word = "".join(rng.choice(list(letters), rng.integers(3, longest + 1)))
    return Example(word, word[::-1])


def tokenizer(texts: Iterable[str]) -> str:
    """Bytes, a mark to begin with, and one behind each text that is read."""
    plan = training.train({}, "bpe", 258, special_tokens=(START, END)).definition
    around = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}]
    marks = {END: {"id": END, "ids": [1], "tokens": [END]}}
    plan["post_processor"] = {
        "type": "TemplateProcessing", "single": around, "pair": around, "special_tokens": marks
    }  # fmt: skip
    return json.dumps(plan)


def config(vocabulary: int, context: int = CONTEXT) -> Config:
    plain = task.layer()
    reading = Layer(plain.attention, plain.mlp, cross=task.attention())
    encoder, decoder = (Stack((layer,) * 2, NORM, Sinusoidal()) for layer in (plain, reading))
    return EncoderDecoder(Embedding(vocabulary, WIDTH, WIDTH**0.5), encoder, decoder, LM(tied=True), context)


def row(text: Tokenizer, example: Example) -> Row:
    answer_ids, (start, end) = (
        text.encode(example.answer),
        (text.token_to_id(START) or 0, text.token_to_id(END) or 0),
    )
    return Row([start, *answer_ids], [*answer_ids, end], text.encode(example.text, add_special_tokens=True))


def answers(model: Model, texts: list[str]) -> list[str]:
    return [completions.text for completions in model.generate_many(texts, batch=64)]


TASK = Task(
    "reversal", "exact", 600, draw, tokenizer, config, row, answers, task.right,
    rules={"decoder_start_token_id": 0, "eos_token_id": 1, "max_new_tokens": LONGEST + 2},
)  # fmt: skip
