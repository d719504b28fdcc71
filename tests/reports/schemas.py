"""Drawn JSON schemas: is every document that a model writes for one valid?

    PYTHONPATH=tests python -m reports.schemas --count 1000

For each schema a text is written from random logits, which favour what closes strings and brackets. The
library jsonschema judges the texts that ended; a schema that can't be followed is refused, and counted by its
reason. Exit code 1: a document isn't valid, or more than REFUSED of the schemas were refused.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import numpy as np
import typer
from helpers import drawn_schemas, text_strategies
from tfm.refimpl.decoding.loop import GeneratedSequence
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.errors import ArgumentError, LimitError
from tfm.runtime.text.constraints import Constraints, of_schema
from tfm.runtime.text.tokenizer import Tokenizer

REFUSED = 0.05
ROOM = 300  # tokens of a text
CLOSES = 6.0  # added to the logits of what closes a string, a list or an object


@dataclass
class Found:
    """What became of the schemas; `keywords` counts those with a keyword, `refused` those with a reason."""

    drawn: int = 0
    valid: int = 0
    cut: int = 0
    invalid: list[tuple[Any, str, str]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    too_complex: Counter[str] = field(default_factory=Counter)
    keywords: Counter[str] = field(default_factory=Counter)


def reason(error: Exception) -> str:
    """Why a schema was refused, without its own names."""
    said = str(error)
    if keys := re.search(r"Unimplemented keys: \[(.*?)\]", said):
        return keys[1].replace('"', "")
    return re.sub(r'"[^"]*"|[0-9]+', "…", said.removeprefix("json_schema can't be followed: "))[:80]


def check(count: int, seed: int = 0) -> Found:
    """Draw the schemas, write a text for each, and judge it."""
    library = text_strategies.byte_level()
    stop = library.token_to_id("<|im_end|>")
    tokenizer = Tokenizer(library.to_str(), library.get_vocab_size())
    constraints = Constraints(tokenizer, [stop])
    closing = [id for token, id in library.get_vocab().items() if set(token) <= set('"]},') or id == stop]
    found = Found()
    for number in range(seed * count, (seed + 1) * count):
        schema = drawn_schemas.schema(random.Random(number))
        found.drawn += 1
        found.keywords.update(drawn_schemas.keywords(schema))
        jsonschema.Draft202012Validator.check_schema(schema)
        try:
            constraint = constraints.constraint(of_schema(schema))
        except ArgumentError as error:
            found.refused[reason(error)] += 1
            continue
        sequence = GeneratedSequence(
            [1], Sampler(temperature=1.0), frozenset([stop]), ROOM, number, constraint=constraint
        )
        rng = np.random.default_rng(number)
        try:
            while sequence.finish_reason is None:
                logits = rng.normal(0, 3, tokenizer.vocabulary).astype(np.float32)
                logits[closing] += CLOSES
                sequence.sample(logits)
        except LimitError as error:
            found.too_complex[reason(error)] += 1
            continue
        if sequence.finish_reason == "length":
            found.cut += 1
            continue
        text = tokenizer.decode(sequence.tokens)
        try:
            jsonschema.Draft202012Validator(
                schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
            ).validate(json.loads(text))
            found.valid += 1
        except (ValueError, jsonschema.ValidationError) as error:
            found.invalid.append((schema, text, str(error).splitlines()[0]))
    return found


def main(count: int = 1000, seed: int = 0) -> None:
    found = check(count, seed)
    refused = found.refused.total() + found.too_complex.total()
    typer.echo(
        f"{found.drawn} schemas: {found.valid} documents valid, {len(found.invalid)} not, {found.cut} cut at "
        f"{ROOM} tokens, {refused} refused ({refused / found.drawn:.1%})"
    )
    for said, times in [*found.refused.most_common(), *found.too_complex.most_common()]:
        typer.echo(f"refused {times:5}  {said}")
    typer.echo("keywords: " + ", ".join(f"{name} {times}" for name, times in found.keywords.most_common()))
    for schema, text, error in found.invalid:
        typer.echo(f"{json.dumps(schema)}\n  {text}\n  {error}")
    raise typer.Exit(bool(found.invalid) or refused > REFUSED * found.drawn)


if __name__ == "__main__":
    typer.run(main)
