"""Answers that call tools, as `generate --tools` prints them and writes them as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import agents, serving
from tfm.cli.commands.chat import Turns
from tfm.cli.console import answer_fields, with_calls
from tfm.cli.inputs import read_tools
from tfm.refimpl.errors import ArgumentError
from tfm.runtime.tasks import Conversation, Model

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


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Commands load a model that acts as a script says; its engine."""
    model = agents.agent()
    monkeypatch.setattr("tfm.cli.options.Running.load", lambda *_: model)
    return model.engine


def test_a_chat_with_tools(tfm: Any, acts: Any, tmp_path: Path) -> None:
    """The lines after calls are what these gave; each call is printed, and what it waits for is said."""
    tools = [
        {"type": "function", "function": {"name": "weather", "parameters": agents.WEATHER, "strict": True}},
        {"type": "function", "function": {"name": "clock", "parameters": agents.CLOCK}},
    ]
    file = tmp_path / "tools.json"
    file.write_text(json.dumps(tools))
    said = [agents.QUESTION, *agents.RESULTS.values()]
    ran = tfm("chat", "--tools", file, "--greedy", "--max-new-tokens", 300, stdin="\n".join(said).encode())
    city, zone = (json.dumps(given, ensure_ascii=False) for given in (agents.CITY, agents.ZONE))
    lines = [agents.THOUGHTS, agents.BEFORE, f"weather({city})", f"clock({zone})", agents.AFTER]
    assert (ran.code, ran.out.splitlines()) == (0, lines)
    assert ["weather" in line for line in ran.err.splitlines()] == [True, False]
    assert acts.prompts[-1].count(agents.RESULT) == 2
    assert all(result in acts.prompts[-1] for result in agents.RESULTS.values())
    assert "strict" not in acts.prompts[0]


def test_results_are_of_the_last_calls() -> None:
    """One text a call, in their order; those of an answer that was taken back are forgotten."""
    calls = f"{CALL}\n{CALL}"
    model = agents.agent({0: calls, 2: "the dog"})
    conversation = Conversation(model, tools=TOOLS)
    turns = Turns(conversation)
    options: Any = {"greedy": True, "max_new_tokens": 200}
    assert str(turns.answer("the cat", options)) == calls
    assert turns.answer("rain", options) is None
    conversation.replace([])
    assert str(turns.answer("the cat", options)) == calls
    assert turns.answer("sun", options) is None
    assert str(turns.answer("snow", options)) == "the dog"
    told = [message["content"] for message in conversation.messages if message["role"] == "tool"]
    assert told == ["sun", "snow"]
