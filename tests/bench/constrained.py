"""What holding a text to a language costs: its tokens a second by those of a text that is free.

    python tests/bench/constrained.py BUNDLE

For each language texts are written with it and without, in turn, of the same length and by the same options,
without drafts, since what these save depends on the text. A pair's figure is the rate of the constrained text
by the other's; printed are the median and the interval that holds it with 95 %. Compiling a language isn't in
it, and is printed beside it. Exit code 1: a median is below GATE.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from drafts import decode, interval
from tfm import runtime
from tfm.runtime.tasks.options import resolve
from workers import quiet

GATE = 0.9
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "role": {"enum": ["admin", "editor", "reader"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
    },
    "required": ["name", "age", "role", "tags"],
    "additionalProperties": False,
}
# Each has no end before the last token that is asked for.
LANGUAGES: dict[str, dict[str, Any]] = {
    "records": {"json_schema": {"type": "array", "items": PERSON, "minItems": 500}},
    "strings": {"json_schema": {"type": "array", "items": {"type": "string"}, "minItems": 500}},
    "any JSON": {"json_schema": {"type": "array", "minItems": 500}},
    "words": {"regex": "([a-z]{1,12} ){500}"},
    "free text": {"regex": "(.|\n){5000,}"},
}


def main(
    bundle: Path,
    pairs: int = 9,
    threads: int = 2,
    new_tokens: int = 96,
    prompt: Annotated[str, typer.Option()] = "Write a list of people who work at a library.",
) -> None:
    """Measure, print a line for each language, and exit 1 when a gate is missed."""
    typer.echo(quiet(), nl=bool(quiet()))
    model = runtime.load(bundle, threads=threads)
    options: dict[str, Any] = {"max_new_tokens": new_tokens, "draft": False, "seed": 1}
    good = True
    for name, language in LANGUAGES.items():
        begin = time.perf_counter()
        stated = resolve(model.generation, chat=True, **language).language
        assert stated is not None
        model.constraints.constraint(stated)
        compiled_s, ratios = time.perf_counter() - begin, []
        for pair in range(pairs + 1):
            rates = {}
            kinds: dict[str, dict[str, Any]] = {"held": language, "free": {"stop_on_eos": False}}
            for kind in list(kinds) if pair % 2 else reversed(kinds):
                tokens, took = decode(model, prompt, **options, **kinds[kind])
                rates[kind] = (len(tokens) - 1) / took
            ratios.append(rates["held"] / rates["free"])
        ratios = np.array(ratios[1:])  # the first pair pages weights in
        low, high = interval(ratios)
        good &= (reached := float(np.median(ratios)) >= GATE)
        typer.echo(
            f"{name:10} {np.median(ratios):.3f} ({low:.3f} to {high:.3f}), compiled in {compiled_s:.2f} s"
            f"{'' if reached else ': MISSED'}"
        )
    raise typer.Exit(not good)


if __name__ == "__main__":
    typer.run(main)
