"""Calls of tools in a model's text, in the form that chat templates state for Hermes, Qwen 2.5 and Qwen 3:

    <tool_call>
    {"name": "weather", "arguments": {"city": "Oslo"}}
    </tool_call>

Templates of other forms, as Llama 3's or Mistral's, aren't read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ...refimpl.errors import TfmError
from ...refimpl.formats.strict_json import parse
from .language_follower import JSON_OPTIONS, LONGEST_SPACE

BEGIN, END = "<tool_call>", "</tool_call>"
CALL = re.compile(rf"{BEGIN}(.*?){END}", re.DOTALL)


class ToolCall(NamedTuple):
    """A function's name and its arguments."""

    name: str
    arguments: dict[str, Any]


# A template states the form in its own text, or in a text in quotes.
KEY = re.compile(r'\\?"arguments\\?"\s*:')


def reads_calls_of(template: str) -> bool:
    """Whether a template states calls in this form: JSON with these keys between the marks."""
    return BEGIN in template and END in template and KEY.search(template) is not None


def read_calls(text: str, names: Collection[str]) -> tuple[str, list[ToolCall]]:
    """The text before the first call, and the calls of functions with these names.

    Where any call isn't whole, or is of another function, all of it is text: nothing is dropped.
    """
    calls: list[ToolCall] = []
    for found in CALL.findall(text):
        try:
            call = parse(found.strip(), "a call", TfmError)
        except TfmError:
            return text, []
        match call:
            case {"name": str(name), "arguments": dict(arguments)} if len(call) == 2 and name in names:
                calls.append(ToolCall(name, arguments))
            case _:
                return text, []
    rest = CALL.sub("", text)
    if not calls or BEGIN in rest or rest[text.index(BEGIN) :].strip():
        return text, []
    return text[: text.index(BEGIN)].rstrip(), calls


def grammar_of_call(functions: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The grammar of what is between the marks, in Lark's form; each function is a name and the schema of its
    arguments."""
    return f"start: document\n{_document(functions)}"


def grammar_of_text(
    functions: Sequence[tuple[str, Mapping[str, Any]]], begin: int | None, end: int | None, *, several: bool
) -> str:
    """The grammar of a text in which any call is whole and of one of the functions, the last thing in it, and
    with `several` more follow; `begin` and `end` are the marks' tokens, where they are single ones."""
    more = " (SPACE begin call)*" if several else ""
    token = "" if begin is None else f"TEXT <[{begin}]> | "
    return f"""start: TEXT | before call{more}
before: {token}spelled
spelled[lazy]: /(?s:.*){BEGIN}/
TEXT: /(?s:.*)/ & ~/(?s:.*{BEGIN}.*)/
begin: {_mark(BEGIN, begin)}
call: SPACE document SPACE ({_mark(END, end)})
{_document(functions)}"""


def _mark(text: str, token: int | None) -> str:
    return f'"{text}"' if token is None else f'<[{token}]> | "{text}"'


def _document(functions: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A call as JSON. Each function has a schema of its own, in which references lead where they should."""
    rules = [f"SPACE: /[ \\n\\r\\t]{{0,{LONGEST_SPACE}}}/"]
    for i, (name, schema) in enumerate(functions):
        head = ["{", '"name"', ":", f'"{name}"', ",", '"arguments"', ":"]
        rules.append(f'call_{i}: {" SPACE ".join(map(json.dumps, head))} SPACE of_{i} SPACE "}}"')
        rules.append(f"of_{i}: %json {json.dumps({**schema, 'x-guidance': JSON_OPTIONS})}")
    return "\n".join([f"document: {' | '.join(f'call_{i}' for i in range(len(functions)))}", *rules])


def written(call: ToolCall) -> str:
    """The call's arguments as the OpenAI API has them: JSON in a text."""
    return json.dumps(call.arguments, ensure_ascii=False)
