"""Each format of calls: what is written is read, whatever the pieces that the text comes in."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from helpers.drawn_answers import CUT, MESSAGES, MUTANTS, Drawn, answer, cuttings, mutant
from tfm.refimpl.checkpoint.formats.strict_json import parse
from tfm.runtime.text.argument_types import Schema
from tfm.runtime.text.call_formats import BY_NAME, FORMATS, CallFormat
from tfm.runtime.text.call_parser import AnswerParser, Event, joined, read_answer
from tfm.runtime.text.call_writer import write_answer

NAMES = [form.name for form in FORMATS]


def events(
    form: CallFormat, functions: Mapping[str, Schema], pieces: Iterable[str], *, cut: bool = False
) -> list[Event]:
    parser = AnswerParser(form, functions)
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
    check_law(name, range(MESSAGES), every_cut_of=CUT)


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
    check_mutants(name, range(MUTANTS))


def test_each_format_is_documented() -> None:
    table = (
        (Path(__file__).parents[3] / "docs" / "FAMILIES.md").read_text().partition("## Calls and thoughts")[2]
    )
    assert re.findall("^[|] `(.*?)`", table, re.MULTILINE) == NAMES


ADD = {"add": {"type": "object"}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
DEEP = CALL.replace("1", "[" * 40 + "]" * 40)


@pytest.mark.parametrize(
    ("text", "content", "count"),
    [
        ("", "", 0),
        (f" I add.\n\n{CALL}\n{CALL}\n", " I add.", 2),
        (f"{CALL} and then", " and then", 1),
        (f"I add.\n\n{CALL} and then", "I add. and then", 1),
        (CALL.replace("</tool_call>", ""), "", 1),
        (CALL + CALL[:30], CALL[:30], 1),
        (CALL.replace("add", "other"), None, 0),
        (CALL.replace('{"a": 1}', "[]"), None, 0),
        (CALL.replace("1", "NaN"), None, 0),
        (CALL.replace("1", "01"), None, 0),
        (CALL.replace("1", '1, "a": 2'), None, 0),
        (CALL.replace('"name": "add"', '"name": "add", "name": "add"'), None, 0),
        (CALL.replace("}}", '}, "more": 1}'), None, 0),
        (CALL.replace("}}", '}, "id": "b"}'), "", 1),
        (CALL.replace('"name": "add", "arguments": {"a": 1}', '"arguments": {"a": 1}, "name": "add"'), "", 1),
        (CALL.replace('"name": "add", ', ""), None, 0),
        (CALL.replace("1", r'"\x41"'), None, 0),
        (DEEP, None, 0),
        (f"<tool_call>{CALL}", "<tool_call>", 1),
        (f'<tool_call>{{"arguments": {{"a": x}}}}{CALL}', '<tool_call>{"arguments": {"a": x}}', 1),
    ],
)
def test_what_is_no_call_is_text(text: str, content: str | None, count: int) -> None:
    read = read_answer(text, BY_NAME["hermes"], ADD)
    assert (read.text, len(read.calls)) == (text if content is None else content, count)
    assert all(json.loads(call.arguments) == {"a": 1} for call in read.calls)


def test_values_that_python_writes_otherwise() -> None:
    text = (
        r"""[add(a='\x41\u00e9"\'\q', b="\ud83d\ude00", c=(1), d=[True, None,  -2.5e3], e={'k': False},)]"""
    )
    for form in ("lfm2", "llama-pythonic"):
        marked = text if form != "lfm2" else f"<|tool_call_start|>{text}<|tool_call_end|>"
        assert not read_answer(marked, BY_NAME[form], ADD).calls  # a tuple
        (call,) = read_answer(marked.replace("c=(1), ", ""), BY_NAME[form], ADD).calls
        assert json.loads(call.arguments) == {
            "a": "Aé\"'\\q", "b": "😀", "d": [True, None, -2500.0], "e": {"k": False}
        }  # fmt: skip
    half = read_answer(CALL.replace("1", r'"\ud83d"'), BY_NAME["hermes"], ADD)
    assert half.calls[0].arguments == r'{"a": "\ud83d"}'


def test_a_value_that_may_be_a_text_or_not() -> None:
    """As the function's schema says."""
    types = {"n": "integer", "s": "string", "m": ["string", "null"], "o": "object"}
    schema = {"type": "object", "properties": {key: {"type": one} for key, one in types.items()}}

    def value(key: str, written: str) -> object:
        call = f"<function=add>\n<parameter={key}>\n{written}\n</parameter>\n</function>"
        answer = read_answer(f"<tool_call>\n{call}\n</tool_call>", BY_NAME["qwen3-coder"], {"add": schema})
        return json.loads(answer.calls[0].arguments)[key] if answer.calls else None

    assert [value(key, "5") for key in ("n", "s", "m", "other")] == [5, "5", "5", 5]
    assert [value(key, "null") for key in ("s", "m")] == ["null", None]
    assert value("o", "{'a': True}") == {"a": True}
    assert value("n", "five") == "five"
    assert value("o", "{'a': ") is None
    assert value("s", "\n a\n") == "\n a\n"


@pytest.mark.parametrize(
    ("form", "text", "content"),
    [
        ("hermes", f"I add. {CALL[:40]}", "I add."),
        ("hermes", CALL[:14], ""),
        ("hermes", "I <tool_", "I <tool_"),
        ("hermes", "a <tool_call> is one", "a <tool_call> is one"),
        ("llama-3", '{"name": "Bo', '{"name": "Bo'),
        ("llama-3", '{"name": "add", "parameters": {"a"', ""),
        ("glm-4.7", "<tool_call>add<arg_key>a</arg_key><arg_val", ""),
    ],
)
def test_a_call_in_which_the_answer_is_cut_is_left_out(form: str, text: str, content: str) -> None:
    assert read_answer(text, BY_NAME[form], ADD, cut=True)[1:] == (content, [])


def test_a_mark_tells_a_text_from_a_value() -> None:
    """Whatever the schema says."""
    form = BY_NAME["deepseek-v3.2"]
    text = write_answer(form, "", "", [("add", {"a": "5", "b": 5})])
    for schema in ({}, {"properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}):
        (call,) = read_answer(text, form, {"add": schema}).calls
        assert json.loads(call.arguments) == {"a": "5", "b": 5}


def test_no_name_is_told_in_a_text_about_calls() -> None:
    for form in ("glm-4.5", "glm-4.7"):
        told = events(BY_NAME[form], ADD, "write <tool_call>add and the rest")
        assert {event.kind for event in told} == {"text"}
