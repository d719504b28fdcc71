"""Each format of calls: what is written is read, whatever the pieces that the text comes in."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from helpers.drawn_answers import Drawn, answer, cuttings, mutant
from tfm.refimpl.formats.strict_json import parse
from tfm.runtime.text.call_formats import BY_NAME, FORMATS, CallFormat
from tfm.runtime.text.call_parser import AnswerParser, Event, joined
from tfm.runtime.text.call_writer import write_answer

NAMES = [form.name for form in FORMATS]


def events(form: CallFormat, functions: object, pieces: Iterable[str], *, cut: bool = False) -> list[Event]:
    parser = AnswerParser(form, functions)  # type: ignore[arg-type]
    told = [event for piece in pieces for event in parser.feed(piece)]
    return [*told, *parser.finish(cut=cut)]


def merged(told: Iterable[Event]) -> list[Event]:
    """The events, those of one kind that follow each other joined."""
    made: list[Event] = []
    for event in told:
        if made and made[-1].kind == event.kind and event.kind in ("thought", "text", "arguments"):
            made[-1] = Event(event.kind, made[-1].text + event.text)
        else:
            made.append(event)
    return made


def holds(form: CallFormat, drawn: Drawn, written: str, pieces: Iterable[str]) -> None:
    read = joined(events(form, drawn.functions, pieces))
    calls = [(call.name, parse(call.arguments, "arguments")) for call in read.calls]
    told = (read.thoughts, read.text, calls)
    assert told == (drawn.thoughts, drawn.text, drawn.calls), written


def check_law(name: str, seeds: Iterable[int], every_cut_of: int) -> None:
    form = BY_NAME[name]
    for seed in seeds:
        rng = random.Random(f"{name} {seed}")
        drawn = answer(rng, form)
        written = write_answer(form, drawn.thoughts, drawn.text, drawn.calls)
        holds(form, drawn, written, [written])
        if seed < every_cut_of:
            for i in range(len(written) + 1):
                holds(form, drawn, written, [written[:i], written[i:]])
        for pieces in cuttings(rng, written, 20):
            holds(form, drawn, written, pieces)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read(name: str) -> None:
    check_law(name, range(20), every_cut_of=1)


def check_mutants(name: str, seeds: Iterable[int]) -> None:
    """Any text is read, alike in any pieces, and a call that is told is whole."""
    form = BY_NAME[name]
    for seed in seeds:
        rng = random.Random(f"mutant {name} {seed}")
        drawn = answer(rng, form)
        text = mutant(rng, write_answer(form, drawn.thoughts, drawn.text, drawn.calls))
        for cut in (False, True):
            told = merged(events(form, drawn.functions, [text], cut=cut))
            for pieces in cuttings(rng, text, 3):
                assert merged(events(form, drawn.functions, pieces, cut=cut)) == told, (text, pieces)
            open_call = False
            for kind, piece in told:
                assert (kind in ("arguments", "end", "broken")) == open_call
                assert kind != "name" or piece in drawn.functions
                open_call = kind in ("name", "arguments")
            for call in joined(told).calls:
                assert isinstance(json.loads(call.arguments), dict)


@pytest.mark.parametrize("name", NAMES)
def test_any_text_is_read(name: str) -> None:
    check_mutants(name, range(20))


def test_each_format_is_documented() -> None:
    table = (Path(__file__).parents[3] / "FAMILIES.md").read_text().partition("## Calls and thoughts")[2]
    assert re.findall("^[|] `(.*?)`", table, re.MULTILINE) == NAMES
