"""Tools in a chat: what the model is asked, and the calls in its answer.

Where a call is asked for (`tool_choice`), the prompt ends with the beginning of one, and the answer is the
rest of it. Else the model may call, and its text is read. With `strict`, or where only one call may come, a
call that it begins is held to a grammar.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...refimpl.decoding.stop import split_at_stop_string
from ..tasks.options import Options
from ..text.tool_calls import (
    BEGIN,
    END,
    ToolCall,
    grammar_of_call,
    grammar_of_text,
    read_calls,
    written,
)
from .errors import RequestError
from .models import Served
from .requests import ChatBody, Function

NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


class Tools:
    """The tools that the answers to one request may call, and what of them is in a text."""

    def __init__(self, body: ChatBody, served: Served) -> None:
        """RequestError for a model whose template has no tools, or calls in another form."""
        offered = body.offered()
        self.for_template = [tool.for_template() for tool in offered] or None
        self.must_call = bool(offered) and body.must_call
        strict = any(tool.function.strict for tool in offered)
        self._several = body.parallel_tool_calls is not False
        self._holds = bool(offered) and (self.must_call or strict or not self._several)
        self._functions = [
            (tool.function.name, _schema(tool.function, held=self.must_call or bool(tool.function.strict)))
            for tool in offered
        ]
        self._names = {name for name, _ in self._functions}
        self._text = text = served.model.model.text
        if not offered:
            return
        # A mark that isn't in texts couldn't be read there.
        marks = text.encode_template(BEGIN)
        if not served.model.model.chat_template.takes_tools or text.decode(marks).strip() != BEGIN:
            raise RequestError(
                f"{served.name} can't call tools: its chat template must have them, with calls in the form "
                f'that is read, {BEGIN}{{"name": …, "arguments": …}}{END}',
                param="tools",
            )

    def hold(self, options: Options) -> Options:
        """The options of a text whose calls are as the request asks."""
        if not self._holds:
            return options
        if self.must_call:
            return replace(options, stop=(), calls=grammar_of_call(self._functions))
        begin, end = (_single(self._text.encode_template(mark)) for mark in (BEGIN, END))
        return replace(options, calls=grammar_of_text(self._functions, begin, end, several=self._several))

    def certain(self, text: str) -> str:
        """As much of an answer's text so far as can't be the beginning of a call."""
        if not self._functions:
            return text
        return "" if self.must_call else split_at_stop_string(text, [BEGIN])[0].rstrip()

    def read(self, text: str, finish_reason: str | None) -> tuple[str, list[dict[str, Any]]]:
        """The text of a complete answer, and its calls in the form of the API; a call that is cut is text,
        but for one that was asked for, whose text nobody else's is."""
        calls: list[ToolCall] = []
        if self.must_call and finish_reason != "stop":
            return "", []
        if self._functions and finish_reason == "stop":
            whole = f"{BEGIN}{text}</tool_call>" if self.must_call else text
            content, calls = read_calls(whole, self._names)
            text = content if calls else text
        return text, [
            {
                "id": f"call_{secrets.token_hex(12)}",
                "type": "function",
                "function": {"name": call.name, "arguments": written(call)},
            }
            for call in calls
        ]


def _schema(function: Function, *, held: bool) -> Mapping[str, Any]:
    """The schema that a call's arguments are held to."""
    if not function.parameters:
        return NO_PARAMETERS
    return function.parameters if held else {"type": "object"}


def _single(ids: Sequence[int]) -> int | None:
    return ids[0] if len(ids) == 1 else None
