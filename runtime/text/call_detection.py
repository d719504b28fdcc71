"""Find the format in which a model writes its tool calls and thoughts, from the model's chat template.

The template renders a conversation with known calls. The model has the first format that passes one of these
tests, tried in this order:

- The format's writer writes the calls exactly as the template does.
- The format's parser finds the calls in the rendered text.
- A sign of the format occurs in the template's source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...refimpl.errors import CheckpointError, LimitError
from .call_formats import FORMATS, TEXT, THOUGHTS, CallFormat, Thoughts
from .call_parser import read_answer
from .call_writer import ID, write_answer

Render = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], str]  # of messages and variables

NAME = "find_place"
ARGUMENTS = ({"city": "Oslo", "count": 2, "near": {"a": [1, "x"]}}, {"city": "Rome"})
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "a city"},
        "count": {"type": "integer", "description": "how many"},
        "near": {"type": "object", "description": "what it is near"},
    },
    "required": ["city"],
}
TOOL = {"type": "function", "function": {"name": NAME, "description": "find a place", "parameters": SCHEMA}}
USER = {"role": "user", "content": "hi"}


def find_format(with_tools: str, without: str, render: Render) -> CallFormat:
    """Return the format of a model with a template for chats with tools and one for chats without tools.

    `render` renders messages with the template for tools. Returns TEXT if the model has no calls.
    """
    found = _format_of_calls(with_tools, render) if "tools" in with_tools else None
    return replace(found or TEXT, thoughts=thoughts_of(with_tools) or thoughts_of(without))


def thoughts_of(source: str) -> Thoughts | None:
    """Return the marks of thoughts that a template's source contains, or None if it contains no such
    marks.
    """
    for thoughts in THOUGHTS:
        if (thoughts.begin if thoughts.anywhere else thoughts.end).strip() in source:
            return thoughts
    return None


def _format_of_calls(source: str, render: Render) -> CallFormat | None:
    for arguments in (ARGUMENTS, ARGUMENTS[:1]):  # some take one call at a time
        shown = _shown(render, arguments)
        if shown is not None and (found := _that_writes(shown, arguments) or _that_reads(shown, arguments)):
            return found
    plain = re.sub(r"\\+n", "\n", re.sub(r'\\+"', '"', source))
    return next((form for form in FORMATS if any(sign in plain for sign in form.signs)), None)


def _shown(render: Render, arguments: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Return how the template renders calls with these arguments, or None if it can't render calls.

    The first item is the text after the user's message, the second item the text after the beginning of an
    answer.
    """
    calls = [
        {"id": ID.format(i), "type": "function", "function": {"name": NAME, "arguments": each}}
        for i, each in enumerate(arguments)
    ]
    called = [USER, {"role": "assistant", "content": "", "tool_calls": calls}]
    try:
        whole = render(called, {"tools": [TOOL]})
        asked = [render([USER], {"tools": [TOOL], "add_generation_prompt": add}) for add in (False, True)]
    except (CheckpointError, LimitError):
        return None
    return [whole[_common(whole, prompt) :] for prompt in asked]


def _common(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _that_writes(shown: Sequence[str], arguments: Sequence[Mapping[str, Any]]) -> CallFormat | None:
    for form in FORMATS:
        written = write_answer(form, "", "", [(NAME, each) for each in arguments]).strip()
        # Without a mark the calls must begin what is shown: other formats' have them inside.
        if any(each.strip().startswith(written) if "" in form.begin else written in each for each in shown):
            return form
    return None


def _that_reads(shown: Sequence[str], arguments: Sequence[Mapping[str, Any]]) -> CallFormat | None:
    for form in FORMATS:
        for calls in (_read(each, form) for each in shown):
            if calls == [(NAME, each) for each in arguments]:
                return form
    return None


def _read(text: str, form: CallFormat) -> list[tuple[str, Any]]:
    answer = read_answer(text, form, {NAME: SCHEMA})
    return [(name, json.loads(arguments)) for name, arguments in answer.calls]
