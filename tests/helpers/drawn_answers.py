"""Answers drawn at random, of what a format can say: thoughts, a text, calls of three functions."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tfm.runtime.text.argument_types import type_of
from tfm.runtime.text.call_formats import CallFormat, Keywords, Marked, Parameters, Values

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
# How many of each form are drawn: messages, those of them that are cut at each place, mutants, sentences.
MESSAGES, CUT, MUTANTS, SENTENCES = (1000, 30, 300, 300) if DEEP else (20, 1, 20, 4)
NAMES = ["get_time", "f", "A-2_b"]
# Pieces that marks, quotes and values are made of, so that texts look like what they aren't.
PIECES = [
    "a", "Oslo", "é", "😀", "\u2028", "0", "-1.5e3", "true", "None", " ", "  ", "\n", "\t", '"', "'", "\\",
    "\\n", "\\u00e9", "{", "}", "[", "]", "(", ")", "<", ">", "</", "|", ",", ":", "=", ";", "```", "<think>",
    "</think", "<tool_call>", "</tool_call", "[TOOL_CALLS", '{"name": "f"', "get_time", "<|", "|>",
    "<function=f>",
]  # fmt: skip


class Drawn(NamedTuple):
    """An answer, and the schemas of the functions, of which its arguments are."""

    thoughts: str
    text: str
    calls: list[tuple[str, dict[str, Any]]]
    functions: Mapping[str, Mapping[str, Any]]


def answer(rng: random.Random, form: CallFormat) -> Drawn:
    """What the format can say."""
    thoughts = text = ""
    count = rng.choice([0, 1, 1, 1, 2, 3, 5])
    if form.thoughts is not None and rng.random() < 0.5:
        thoughts = _text(rng, [form.thoughts.end.strip()]).strip()
    if rng.random() < 0.6 and not (count and "" in form.begin):
        text = _said(rng, form, after_thoughts=bool(thoughts), before_calls=bool(count))
    # Arguments of one function have the same types in each call.
    types = {(name, i): rng.randrange(7) for name in NAMES for i in range(4)}
    functions: dict[str, dict[str, Any]] = {name: {"type": "object", "properties": {}} for name in NAMES}
    calls = []
    for _ in range(count):
        name = rng.choice(NAMES)
        arguments = {}
        for i in range(rng.randrange(4)):
            key, value = f"{_key(rng, form)}{i}", _value(rng, form, types[name, i], 3)
            arguments[key] = value
            functions[name]["properties"][key] = {"type": _stated(rng, value)}
        calls.append((name, arguments))
    return Drawn(thoughts, text, calls, functions)


def _stated(rng: random.Random, value: Any) -> Any:
    """A type that the value has; a text's alone, since a text may read as null."""
    own = rng.choice(sorted(type_of(value)))
    return own if own == "string" else rng.choice([own, [own, "null"]])


def _said(rng: random.Random, form: CallFormat, *, after_thoughts: bool, before_calls: bool) -> str:
    """A text that is read as one: without marks that are never text, and none that is a call."""
    without = [*form.silent]
    if form.thoughts is not None:
        without.append(form.thoughts.begin.strip())
    text = _text(rng, [*without, *(f"{mark}get_time" for mark in form.begin if mark)])
    if after_thoughts and not form.text[0]:
        text = text.lstrip()
    return text.rstrip() if before_calls else text


def _text(rng: random.Random, without: list[str]) -> str:
    while True:
        text = "".join(rng.choice(PIECES) for _ in range(rng.choice([0, 1, 2, 5, 12])))
        if not any(mark in text for mark in without):
            return text


def _key(rng: random.Random, form: CallFormat) -> str:
    call = form.call
    free = not (isinstance(call, Marked) and isinstance(call.arguments, Keywords | Parameters))
    bare = isinstance(call, Marked) and isinstance(call.arguments, Values) and call.arguments.bare_keys
    return _text(rng, []) if free and not bare else rng.choice(["city", "a_b", "é", "x-y", "n"])


def _limits(form: CallFormat) -> list[str]:
    """What no text among the arguments may have: the marks that end one."""
    match form.call:
        case Marked(arguments=Parameters() as marks):
            return [marks.after.strip()]
        case Marked(arguments=Values(escapes=None) as values):
            return [*values.quotes]
    return []


def _value(rng: random.Random, form: CallFormat, kind: int, depth: int) -> Any:
    match kind:
        case 0 | 1:
            return _text(rng, _limits(form))
        case 2:
            return rng.choice([0, -1, 7, 10**20])
        case 3:
            return rng.choice([True, False])
        case 4:
            return rng.choice([0.5, -1e-7, 1e300, 2.0])
        case 5:
            return [_nested(rng, form, depth) for _ in range(rng.randrange(3))]
        case _:
            return {_key(rng, form): _nested(rng, form, depth) for _ in range(rng.randrange(3))}


def _nested(rng: random.Random, form: CallFormat, depth: int) -> Any:
    return None if rng.random() < 0.1 else _value(rng, form, rng.randrange(7 if depth else 5), depth - 1)


def cuttings(rng: random.Random, text: str, count: int) -> Iterator[list[str]]:
    """Ways to cut a text into pieces, many or few."""
    for _ in range(count):
        places = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.choice([1, 3, 10, 1000]))))
        yield [text[i:j] for i, j in zip([0, *places], [*places, len(text)], strict=True)]


MARKS = [
    "<tool_call>",
    "}",
    "{",
    '"',
    "'",
    "\\",
    "]",
    ",",
    "</think>",
    "<|",
    "\n",
    "0",
    "e9",
    "\ud7ff",
    "(",
    "=",
    ":",
]


def mutant(rng: random.Random, text: str) -> str:
    """The text with something left out, twice or in another place."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        i, j = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        j = min(j, i + rng.choice([1, 3, 20]))
        match rng.randrange(4):
            case 0:
                text = text[:i] + text[j:]
            case 1:
                text = text[:j] + text[i:]
            case 2:
                text = text[:i] + rng.choice(MARKS) + text[i:]
            case _:
                text = text[:i] + rng.choice(MARKS) + text[j:]
    return text
