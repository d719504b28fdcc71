"""Calls of tools are found in a text, and what isn't one stays text."""

from __future__ import annotations

import pytest
from tfm.runtime.text.tool_calls import ToolCall, read_calls, reads_calls_of

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
ADD = ToolCall("add", {"a": 1})


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("", "", []),
        ("the cat", "the cat", []),
        (CALL, "", [ADD]),
        (f"I add.\n\n{CALL}\n{CALL}\n", "I add.", [ADD, ADD]),
        (f"{CALL} and then", None, []),  # text after a call would be lost
        (CALL.replace("</tool_call>", ""), None, []),
        (CALL + CALL[:30], None, []),
        (CALL.replace("add", "other"), None, []),
        (CALL.replace('{"a": 1}', "[]"), None, []),
        (CALL.replace('{"a": 1}', '{"a": NaN}'), None, []),
        (CALL.replace('"name": "add"', '"name": "add", "name": "add"'), None, []),
        (CALL.replace("}}", '}, "more": 1}'), None, []),
        (f"<tool_call>{'[' * 5000}</tool_call>", None, []),
    ],
)
def test_calls_are_read(text: str, content: str | None, calls: list[ToolCall]) -> None:
    assert read_calls(text, {"add"}) == (text if content is None else content, calls)


def test_the_form_is_that_of_the_template() -> None:
    assert reads_calls_of('{{ tools }}<tool_call>{"name": n, "arguments": a}</tool_call>')
    # GLM's: the name, then keys and values between marks of their own.
    glm = "{{ tools }}<tool_call>{{ c.name }}{% for k, v in c.arguments.items() %}<arg_key>{{ k }}</arg_key>"
    assert not reads_calls_of(f"{glm}<arg_value>{{{{ v }}}}</arg_value>{{% endfor %}}</tool_call>")
    assert reads_calls_of(r'{{ "<tool_call>{\"name\": n, \"arguments\": a}</tool_call>" }}')
    assert not reads_calls_of("{{ tools }}<tool_call><function=add></function></tool_call> arguments")
    assert not reads_calls_of('{{ tools }}[TOOL_CALLS] [{"name": n, "arguments": a}]')
