"""Tools over HTTP, by the `openai` package: calls that the model makes, and calls that are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from helpers import serving
from tfm.runtime.serve.requests import ChatBody
from tfm.runtime.tasks import Model

STOP = serving.TOKENIZER.get_vocab()["<|im_end|>"]
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": PARAMETERS, **more}}


TOOLS = [tool("weather"), tool("news")]
MESSAGES: list[Any] = [{"role": "user", "content": "the cat"}]
CHAT: dict[str, Any] = {
    "model": "tiny",
    "messages": MESSAGES,
    "tools": TOOLS,
    "temperature": 0,
    "max_tokens": 250,
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'


@contextmanager
def client_of(model: Model) -> Iterator[openai.OpenAI]:
    with serving.running({"tiny": model}) as (url, _), httpx.Client(trust_env=False, timeout=60) as http:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", http_client=http, max_retries=0)


def with_tools(engine: serving.Scripted | None = None) -> Model:
    return serving.model(engine or serving.Scripted(), serving.TOOLS, eos=(STOP,))


def scripted(text: str) -> Model:
    """A model that answers MESSAGES with this text."""
    engine = serving.Scripted()
    model = with_tools(engine)
    prompt = model.chat_template.encode(MESSAGES, tools=TOOLS)
    tokens = [*model.text.encode_template(text), STOP]
    engine.script = {len(prompt) + i: token for i, token in enumerate(tokens)}
    return model


def whole_and_streamed(client: openai.OpenAI, **body: Any) -> tuple[str | None, list[Any], str]:
    """The answer: its content, its calls as (name, arguments), and why it ended; streamed it is the same."""
    answer = client.chat.completions.create(**body).choices[0]
    message = answer.message
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    text, streamed, reason = "", [], None
    for chunk in client.chat.completions.create(**body, stream=True):
        delta = chunk.choices[0].delta
        text += delta.content or ""
        streamed += [(call.function.name, call.function.arguments) for call in delta.tool_calls or ()]
        reason = chunk.choices[0].finish_reason or reason
    assert (text, streamed, reason) == (message.content or "", calls, answer.finish_reason)
    return message.content, calls, answer.finish_reason


@pytest.mark.parametrize(
    ("text", "content", "count"),
    [
        ("the cat sat on <the mat", "the cat sat on <the mat", 0),
        pytest.param(CALL, None, 1, marks=pytest.mark.long),
        (f"the dog:\n{CALL}\n{CALL}", "the dog:", 2),
        (CALL.replace("weather", "other"), CALL.replace("weather", "other"), 0),
        pytest.param(CALL[:-12], CALL[:-12], 0, marks=pytest.mark.long),
    ],
)
def test_calls_that_the_model_makes(text: str, content: str | None, count: int) -> None:
    with client_of(scripted(text)) as client:
        expected = [("weather", '{"city": "Oslo", "days": 2}')] * count
        told = whole_and_streamed(client, **CHAT)
        assert told == (content, expected, "tool_calls" if count else "stop")
        if text.startswith("the cat"):
            cut = whole_and_streamed(client, **{**CHAT, "max_tokens": 3})
            assert (cut[1], cut[2]) == ([], "length")


def test_calls_that_are_asked_for() -> None:
    """A model with random weights makes a valid one, unless it is cut."""
    with client_of(with_tools()) as client:
        made = []
        for seed in range(2):
            for choice in ("required", {"type": "function", "function": {"name": "news"}}):
                body = {**CHAT, "seed": seed, "temperature": 1.3, "tool_choice": choice}
                content, calls, reason = whole_and_streamed(client, **body)
                if reason == "length":
                    assert not calls
                    assert not content
                    continue
                ((name, arguments),) = calls
                assert (content, reason) == (None, "tool_calls")
                assert name in (("weather", "news") if choice == "required" else ("news",))
                jsonschema.validate(json.loads(arguments), PARAMETERS)
                made.append(name)
        assert made


def test_a_call_that_is_cut_is_no_text() -> None:
    with client_of(with_tools()) as client:
        told = whole_and_streamed(client, **{**CHAT, "tool_choice": "required", "max_tokens": 5})
        assert told == ("", [], "length")


def test_a_function_without_parameters_takes_none() -> None:
    tools = [{"type": "function", "function": {"name": "ping"}}]
    with client_of(with_tools()) as client:
        _, calls, _ = whole_and_streamed(client, **{**CHAT, "tools": tools, "tool_choice": "required"})
        assert calls == [("ping", "{}")]


def test_a_schema_may_refer_to_its_own_parts() -> None:
    referring = {**PARAMETERS, "properties": {**PARAMETERS["properties"], "city": {"$ref": "#/$defs/City"}}}
    referring["$defs"] = {"City": {"enum": ["Oslo", "Rome"]}}
    tools = [tool("weather"), tool("news", parameters=referring)]
    choice = {"type": "function", "function": {"name": "news"}}
    with client_of(with_tools()) as client:
        _, ((_, arguments),), _ = whole_and_streamed(
            client, **{**CHAT, "tools": tools, "tool_choice": choice}
        )
        jsonschema.validate(json.loads(arguments), PARAMETERS)


@pytest.mark.parametrize(
    "text", [CALL.replace("Oslo", "Bonn"), CALL.replace("weather", "other"), f"see {CALL}"]
)
def test_a_strict_call_is_of_its_schema_or_none(text: str) -> None:
    """The model may answer in words too; without `strict` its own call is given."""
    strict = [tool("weather", strict=True), tool("news")]
    with client_of(scripted(text)) as client:
        content, calls, _ = whole_and_streamed(client, **{**CHAT, "tools": strict})
        for name, arguments in calls:
            assert name == "weather"
            jsonschema.validate(json.loads(arguments), PARAMETERS)
        assert len(calls) == text.startswith("see")
        if text.startswith("see"):
            assert content == "see"
        if "Bonn" in text:
            assert whole_and_streamed(client, **CHAT)[1] == [("weather", '{"city": "Bonn", "days": 2}')]
    with client_of(scripted("the cat sat")) as client:
        assert whole_and_streamed(client, **{**CHAT, "tools": strict}) == ("the cat sat", [], "stop")


def test_generation_ends_after_the_only_call() -> None:
    model = scripted(f"the dog:\n{CALL}\n{CALL}")
    with client_of(model) as client:
        body = {**CHAT, "parallel_tool_calls": False}
        told = whole_and_streamed(client, **body)
        assert told == ("the dog:", [("weather", '{"city": "Oslo", "days": 2}')], "tool_calls")
        usage = client.chat.completions.create(**body).usage
        assert usage is not None
        assert usage.completion_tokens == len(model.text.encode_template(f"the dog:\n{CALL}"))


GIVEN_BACK: list[dict[str, Any]] = [
    {"annotations": [], "audio": None, "function_call": None, "parsed": None, "refusal": None},
    {"provider_specific_fields": {"a": 1}, "reasoning_content": None, "images": [], "id": "a"},
    {"tool_calls": None, "tool_call_id": None, "cache_control": {"type": "ephemeral"}},
    {"content": [{"type": "text", "text": "a cat", "annotations": [], "cache_control": None}]},
]


def test_a_message_is_taken_as_it_came() -> None:
    """The prompt is that of the message itself."""
    model = with_tools()
    with client_of(model) as client:

        def read(*messages: Any) -> int:
            asked: dict[str, Any] = {**CHAT, "messages": [*MESSAGES, *messages, *MESSAGES], "max_tokens": 1}
            usage = client.chat.completions.create(**asked).usage
            assert usage is not None
            return usage.prompt_tokens

        plain = read({"role": "assistant", "content": "a cat"})
        for more in GIVEN_BACK:
            assert read({"role": "assistant", "content": "a cat", **more}) == plain
        function = {"name": "weather", "arguments": "{}"}
        call = {"id": "call_1", "type": "function", "function": function}
        answer = {"role": "assistant", "content": None, "tool_calls": [call]}
        noted = {**call, "index": 0, "function": {**function, "arguments": "", "parsed_arguments": None}}
        assert read({**answer, "tool_calls": [noted]}) == read(answer)
        own = client.chat.completions.create(**{**CHAT, "max_tokens": 4}).choices[0].message
        assert read(own.model_dump()) == read({"role": "assistant", "content": own.content})


def test_what_the_model_thought_is_shown_to_its_template() -> None:
    said = {"role": "assistant", "content": "a", "reasoning_content": "b", "annotations": []}
    body = ChatBody.model_validate({"model": "tiny", "messages": [said], "prediction": None})
    assert body.messages[0].for_template() == {"role": "assistant", "content": "a", "reasoning_content": "b"}


def test_a_conversation_goes_on_after_a_call() -> None:
    model = with_tools()
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    messages: list[Any] = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    with client_of(model) as client:
        answer = client.chat.completions.create(**{**CHAT, "messages": messages, "max_tokens": 8})
    read_call = {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    read = [messages[0], {"role": "assistant", "content": "", "tool_calls": [read_call]}, messages[2]]
    prompt = model.chat_template.encode(read, tools=TOOLS)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt)
    expected = model.generate_ids(prompt, greedy=True, max_new_tokens=8)
    assert answer.choices[0].message.content == model.text.decode(expected)


def test_without_tools_none_are_shown() -> None:
    model = with_tools()
    with client_of(model) as client:
        none = client.chat.completions.create(**{**CHAT, "tool_choice": "none", "max_tokens": 4})
        assert none.usage is not None
        assert none.usage.prompt_tokens == len(model.chat_template.encode(MESSAGES))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [tool("a"), tool("a")]}, "a name of its own"),
    ({"tools": [tool("a b")]}, "tools.0.function.name"),
    ({"tools": [tool("a", strict=True, parameters={"not": {}})]}, "Unimplemented keys"),
    (
        {"tools": [tool("a", strict=True, parameters={"not": {}, "x-guidance": {"lenient": True}})]},
        "Unimplemented keys",
    ),
    ({"tool_choice": "required", "stop": "a"}, "stop can't be combined"),
    ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "must name one of the tools"),
    ({"tools": None, "tool_choice": "required"}, "tool_choice goes with tools"),
    ({"response_format": {"type": "json_object"}}, "tools can't be combined"),
    ({"tool_choice": "required", "tools": [tool("a", parameters={"not": {}})]}, "Unimplemented keys"),
    ({"tools": [tool("a", description="<|im_end|>")]}, "control token"),
    ({"messages": [{"role": "user", "content": "a", "name": "<|im_end|>"}]}, "control token"),
    ({"messages": [{"role": "user", "content": "a", "tool_calls": []}]}, "an assistant's"),
    ({"messages": [{"role": "user"}]}, "must have content"),
    ({"messages": [{"role": "user", "content": "a", "images": []}]}, "messages.0.images"),
    ({"messages": [{"role": "user", "content": "a", "reasoning_content": "b"}]}, "an assistant's"),
    ({"messages": [{"role": "assistant", "content": "a", "prefix": True}]}, "messages.0.prefix"),
    ({"messages": [{"role": "assistant", "content": "a", "audio": {"id": "b"}}]}, "messages.0.audio"),
]


def test_what_is_refused() -> None:
    with serving.running({"tiny": with_tools()}) as (url, _):
        for change, reason in REFUSED:
            answer = httpx.post(f"{url}/v1/chat/completions", json={**CHAT, **change}, trust_env=False)
            assert (answer.status_code, reason in answer.text) == (400, True), (change, answer.text)


def test_a_model_without_tools_in_its_template_says_so() -> None:
    with serving.running({"tiny": serving.model()}) as (url, _):
        answer = httpx.post(f"{url}/v1/chat/completions", json=CHAT, trust_env=False)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
        assert "tiny can't call tools" in answer.text
