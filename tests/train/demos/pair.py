"""What the demo models have in common that read one text and write another."""

from __future__ import annotations

import task
from demos.words import END, MARKS, START
from loop import Row
from task import NORM, WIDTH, Example
from tfm.refimpl.config import LM, Config, Embedding, EncoderDecoder, Layer, Sinusoidal, Stack
from tfm.runtime.tasks import Model
from tfm.runtime.text.tokenizer import Tokenizer

CONTEXT = 128
RULES = {"decoder_start_token_id": MARKS.index(START), "eos_token_id": MARKS.index(END), "max_new_tokens": 40}


def config(vocabulary: int) -> Config:
    plain = task.layer()
    reading = Layer(plain.attention, plain.mlp, cross=task.attention())
    encoder, decoder = (Stack((layer,) * 2, NORM, Sinusoidal()) for layer in (plain, reading))
    return EncoderDecoder(Embedding(vocabulary, WIDTH, WIDTH**0.5), encoder, decoder, LM(tied=True), CONTEXT)


def row(text: Tokenizer, example: Example) -> Row:
    """The answer, read and to be written, and the text."""
    answer_ids = text.encode(example.answer)
    source = text.encode(example.text, add_special_tokens=True)
    return Row([MARKS.index(START), *answer_ids], [*answer_ids, MARKS.index(END)], source)


def answers(model: Model, texts: list[str]) -> list[str]:
    return [completion.text for completion in model.generate_many(texts, batch=64, greedy=True)]
