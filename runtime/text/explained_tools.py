"""Explain tools to a model in its messages, because the model's chat template doesn't support tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .call_formats import BY_NAME, CallFormat
from .call_writer import write_answer

FORM = BY_NAME["hermes"]


def form_of_explained(answers: CallFormat) -> CallFormat:
    """Return the format of tool calls for a model with tools explained in its messages. Thoughts keep the
    model's own marks.
    """
    return replace(FORM, thoughts=answers.thoughts)


def explained(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
) -> list[dict[str, Any]]:
    """Return the messages with the tools explained in the first message, and with calls and their results
    written as text."""
    told: list[dict[str, Any]] = []
    for message in messages:
        plain = _plain(message)
        # Results of several calls are one message: templates want turns.
        if message["role"] == "tool" and told and told[-1].pop("result", False):
            told[-1]["content"] += f"\n{plain['content']}"
        else:
            told.append(plain)
        if message["role"] == "tool":
            told[-1]["result"] = True
    for message in told:
        message.pop("result", None)
    if tools:
        first, text = told[0], _explanation(tools)
        if first["role"] in ("system", "developer"):
            first["content"] = f"{first['content']}\n\n{text}"
        else:
            first["content"] = f"{text}\n\n{first['content']}"
    return told


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in message.items() if key not in ("tool_calls", "tool_call_id")}
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    if calls := message.get("tool_calls"):
        functions = [call["function"] for call in calls]
        made = [(function["name"], function["arguments"]) for function in functions]
        plain["content"] = write_answer(FORM, "", message["content"], made)
    return plain


def _explanation(tools: Sequence[Mapping[str, Any]]) -> str:
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return (
        f"You may call these functions:\n{lines}\n\nTo call one, answer with its name and its arguments as "
        f'JSON, in this form:\n{FORM.begin[0]}\n{{"name": "NAME", "arguments": {{…}}}}\n{FORM.end}\n'
        "The results come in the next message. Without a call, answer as usual."
    )
