"""Tools in a chat: what the model is asked, and the calls in its answer.

Where a call is asked for (`tool_choice`), the prompt ends with the beginning of one, and the answer is JSON
of the functions' schemas; else the model may call, and its text is read.
"""

from __future__ import annotations

import secrets
from typing import Any

from ...refimpl.decoding.stop import split_at_stop_string
from ..text.tool_calls import BEGIN, ToolCall, read_calls, schema_of, written
from .errors import RequestError
from .models import Served
from .requests import ChatBody


class Tools:
    """The tools that the answers to one request may call, and what of them is in a text."""

    def __init__(self, body: ChatBody, served: Served) -> None:
        """RequestError for a model whose template has no tools, or calls in another form."""
        offered = body.offered()
        self.for_template = [tool.for_template() for tool in offered] or None
        self.must_call = bool(offered) and body.must_call
        self._functions = [
            (tool.function.name, tool.function.parameters or {"type": "object"}) for tool in offered
        ]
        self._names = {name for name, _ in self._functions}
        model = served.model.model
        if not offered:
            return
        # A mark that isn't in texts couldn't be read there.
        marks = model.text.encode_template(BEGIN)
        if not model.chat_template.takes_tools or model.text.decode(marks).strip() != BEGIN:
            raise RequestError(
                f"{served.name} can't call tools: its chat template has none, or not as <tool_call>",
                param="tools",
            )

    def schema(self) -> dict[str, Any] | None:
        """The schema of an answer that must be a call."""
        return schema_of(self._functions) if self.must_call else None

    def certain(self, text: str) -> str:
        """As much of an answer's text so far as can't be the beginning of a call."""
        if not self._functions:
            return text
        return "" if self.must_call else split_at_stop_string(text, [BEGIN])[0].rstrip()

    def read(self, text: str, finish_reason: str | None) -> tuple[str, list[dict[str, Any]]]:
        """The text of a complete answer, and its calls in the form of the API; a call that is cut is text."""
        calls: list[ToolCall] = []
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
