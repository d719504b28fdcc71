"""Answers that call tools, as `generate --tools` prints them and writes them as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import serving
from tfm.cli.console import answer_fields, with_calls
from tfm.cli.inputs import read_tools
from tfm.refimpl.errors import ArgumentError
from tfm.runtime.tasks import Model

TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather"}}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
STOP = serving.TOKENIZER.get_vocab()["<|im_end|>"]


def scripted(text: str) -> Model:
    """A model that answers "the cat" with this text."""
    engine = serving.Scripted()
    model = serving.model(engine, serving.TOOLS, eos=(STOP,))
    prompt = model.ask("the cat", tools=TOOLS).ids
    engine.script = {len(prompt) + i: token for i, token in enumerate([*model.text.encode(text), STOP])}
    return model


@pytest.mark.parametrize(
    ("text", "printed", "said", "calls"),
    [
        ("the dog", "the dog", "the dog", 0),
        (CALL, 'weather({"city": "Oslo"})', "", 1),
        (f"the dog {CALL}\n{CALL}", "the dog" + '\nweather({"city": "Oslo"})' * 2, "the dog", 2),
        ("<tool_call>\na", "<tool_call>\na", "<tool_call>\na", 0),
    ],
)
def test_calls_are_printed_and_in_json(text: str, printed: str, said: str, calls: int) -> None:
    model = scripted(text)
    asked: dict[str, Any] = {"tools": TOOLS, "greedy": True}
    assert "".join(with_calls(model.generate("the cat", **asked))) == printed
    answers = [model.generate("the cat", **asked), *model.generate_many(["the cat"], **asked)]
    for answer in answers:
        str(answer)
        fields = answer_fields(answer, tools=True)
        named = [{"name": "weather", "arguments": {"city": "Oslo"}}] * calls
        assert (fields["text"], fields["thoughts"], fields["calls"]) == (said, "", named)
    assert "calls" not in answer_fields(model.generate("the cat", greedy=True, max_new_tokens=1))


def test_a_file_of_tools(tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    file.write_text(json.dumps(TOOLS))
    assert read_tools(file) == TOOLS
    for wrong in ("{}", "[1]", "[", '[{"type": "function"}]'):
        file.write_text(wrong)
        with pytest.raises(ArgumentError):
            read_tools(file)
