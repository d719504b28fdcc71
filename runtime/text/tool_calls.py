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

BEGIN, END = "<tool_call>", "</tool_call>"
CALL = re.compile(rf"{BEGIN}(.*?){END}", re.DOTALL)


class ToolCall(NamedTuple):
    """A function's name and its arguments."""

    name: str
    arguments: dict[str, Any]


def reads_calls_of(template: str) -> bool:
    """Whether a template states calls in this form: JSON with these keys between the marks."""
    return all(part in template for part in (BEGIN, END, "arguments")) and "<function=" not in template


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


def schema_of(functions: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The JSON schema of a call of one of the functions, each a name and the schema of its arguments."""
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for name, parameters in functions
        ]
    }


def written(call: ToolCall) -> str:
    """The call's arguments as the OpenAI API has them: JSON in a text."""
    return json.dumps(call.arguments, ensure_ascii=False)
