"""Tools over HTTP, by the `openai` package: calls that the model makes, and calls that are asked for."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import jsonschema
import openai
import pytest
from helpers import serving, text_strategies
from tfm.refimpl.errors import ArgumentError, LimitError
from tfm.runtime.serve import AsyncModel
from tfm.runtime.serve.requests import ChatBody
from tfm.runtime.tasks import Conversation, Model
from tfm.runtime.text.call_detection import ARGUMENTS as PROBES
from tfm.runtime.text.call_detection import NAME
from tfm.runtime.text.call_formats import BY_NAME
from tfm.runtime.text.call_parser import joined, read_answer
from tfm.runtime.text.call_writer import write_answer
from tfm.runtime.text.explained_tools import explained
from tokenizers import AddedToken

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


def scripted(text: str, template: str = serving.TOOLS, marks: Sequence[str] = (), **asked: Any) -> Model:
    """A model that answers MESSAGES with this text; `marks` are special tokens of it."""
    tokenizer = text_strategies.byte_level()
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    engine = serving.Scripted(tokenizer)
    model = serving.model(engine, template, eos=(STOP,), tokenizer=tokenizer)
    messages = explained(MESSAGES, TOOLS) if template == serving.CHAT else MESSAGES
    prompt = model.chat_template.encode(messages, **{"tools": TOOLS, **asked})
    tokens = [*model.text.encode_template(text), STOP]
    engine.script = {len(prompt) + i: token for i, token in enumerate(tokens)}
    return model


def whole_and_streamed(client: openai.OpenAI, **body: Any) -> tuple[str | None, list[Any], str]:
    """The answer: its content, its calls as (name, arguments), and why it ended; streamed it is the same."""
    answer = client.chat.completions.create(**body).choices[0]
    message = answer.message
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    told = streamed(client, **body)
    whole = [(call.function.name, call.function.arguments) for call in told.calls]
    assert (told.content, told.reason) == (message.content or "", answer.finish_reason)
    # A call in which the answer is cut was begun.
    assert whole[: len(calls)] == calls
    assert len(whole) == len(calls) or told.reason == "length"
    return message.content, calls, answer.finish_reason


class Streamed(NamedTuple):
    """A stream's deltas, joined as clients do."""

    thoughts: str
    content: str
    calls: list[Any]
    reason: str | None
    deltas: list[Any]


def streamed(client: openai.OpenAI, **body: Any) -> Streamed:
    thoughts, content, reason, calls, deltas = "", "", None, [], []
    for chunk in client.chat.completions.create(**body, stream=True):
        delta = chunk.choices[0].delta
        deltas.append(delta)
        thoughts += getattr(delta, "reasoning_content", None) or ""
        content += delta.content or ""
        for call in delta.tool_calls or ():
            if call.function.name is not None:
                assert call.id is not None
                assert call.index == len(calls)
                calls.append(call)
            else:
                assert call.id is None
                calls[call.index].function.arguments += call.function.arguments
        reason = chunk.choices[0].finish_reason or reason
    return Streamed(thoughts, content, calls, reason, deltas)


@pytest.mark.parametrize(
    ("text", "content", "count"),
    [
        ("the cat sat on <the mat", "the cat sat on <the mat", 0),
        pytest.param(CALL, None, 1, marks=pytest.mark.long),
        (f"the dog:\n{CALL}\n{CALL}", "the dog:", 2),
        (CALL.replace("weather", "other"), CALL.replace("weather", "other"), 0),
        pytest.param(CALL[:-12], None, 1, marks=pytest.mark.long),
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
        if text.startswith("see"):
            assert (content, len(calls)) == ("see", 1)
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


OTHER = {"type": "function", "function": {"name": "other"}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [tool("a"), tool("a")]}, "a name of its own"),
    ({"tools": [tool("a b")]}, "tools.0.function.name"),
    ({"tools": [tool("a", strict=True, parameters={"not": {}})]}, "Unimplemented keys"),
    (
        {"tools": [tool("a", strict=True, parameters={"not": {}, "x-guidance": {"lenient": True}})]},
        "Unimplemented keys",
    ),
    ({"tool_choice": "required", "stop": "a"}, "`stop` can't be combined"),
    ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "must be a function in `tools`"),
    ({"tools": None, "tool_choice": "required"}, "tool_choice needs the field `tools`"),
    ({"structured_outputs": {"regex": "("}}, "regex can't be followed"),
    ({"grammar": "root ::= b"}, "grammar can't be followed"),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [OTHER]}}},
        "must be a function in `tools`",
    ),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
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


ARGUMENTS = {"city": "Oslo", "days": 2}


def test_a_call_comes_as_it_is_written() -> None:
    """Its name before its arguments, these in pieces, and nothing empty between them."""
    with client_of(scripted(f"the dog: {CALL}\n{CALL}")) as client:
        told = streamed(client, **CHAT)
        assert (told.content, told.reason) == ("the dog:", "tool_calls")
        assert [json.loads(call.function.arguments) for call in told.calls] == [ARGUMENTS] * 2
        pieces = [call for delta in told.deltas for call in delta.tool_calls or ()]
        assert [piece.index for piece in pieces] == sorted(piece.index for piece in pieces)
        assert len(pieces) > 8
        assert all(delta.content or delta.tool_calls for delta in told.deltas[1:-1])
        for most in range(8, 40, 4):  # a call that is cut is no text, nor a call
            body = {**CHAT, "max_tokens": most}
            content, calls, reason = whole_and_streamed(client, **body)
            assert (content, calls, reason) in [
                ("the dog:", [], "length"),
                ("the dog:", [("weather", json.dumps(ARGUMENTS))], "length"),
            ]


# A format of each kind of arguments, with marks that are special tokens or not, and how calls look in it.
WRITTEN = {
    name: write_answer(BY_NAME[name], "", "", [("weather", ARGUMENTS), ("news", ARGUMENTS)])
    for name in (
        "glm-4.7",
        "qwen3-coder",
        "mistral-v13",
        "lfm2",
        "gemma-4",
        "harmony",
        "deepseek-v3.1",
        "xlam",
    )
}
SPECIAL = {
    "mistral-v13": ["[TOOL_CALLS]", "[ARGS]"],
    "lfm2": ["<|tool_call_start|>", "<|tool_call_end|>"],
    "gemma-4": ["<|tool_call>", "<tool_call|>", '<|"|>'],
    "deepseek-v3.1": [
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ],
    "harmony": ["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|call|>", "<|end|>"],
}


# Shows calls in a format, and no more of tools.
SHOWS = """{%- set shown = tools %}{% for m in messages %}<|im_start|>{{ m.content }}{% if m.tool_calls %}
    {{- CALLS }}{{ '' if m.tool_calls | length == 2 else raise_exception('two') }}{% endif %}{% endfor %}
    {{- '<|im_start|>' if add_generation_prompt }}"""


def template_of(name: str) -> str:
    calls = write_answer(BY_NAME[name], "", "", [(NAME, each) for each in PROBES])
    return SHOWS.replace("CALLS", repr(calls))


@pytest.mark.parametrize("name", WRITTEN)
def test_calls_in_the_format_of_the_template(name: str) -> None:
    model = scripted(WRITTEN[name], template_of(name), SPECIAL.get(name, ()))
    with client_of(model) as client:
        content, calls, reason = whole_and_streamed(client, **CHAT)
        assert [(called, json.loads(arguments)) for called, arguments in calls] == [
            ("weather", ARGUMENTS), ("news", ARGUMENTS)
        ]  # fmt: skip
        assert (content, reason) == (None, "tool_calls")
        # Held to a grammar it may not write what another schema refuses.
        other = {**PARAMETERS, "properties": {**PARAMETERS["properties"], "city": {"enum": ["Rome"]}}}
        tools = [tool("weather", strict=True, parameters=other), tool("news")]
        for body in ({}, {"tool_choice": "required"}):
            _, calls, _ = whole_and_streamed(client, **{**CHAT, **body, "tools": tools})
            for called, arguments in calls:
                jsonschema.validate(json.loads(arguments), other if called == "weather" else PARAMETERS)


def test_a_model_without_tools_in_its_template_is_told_of_them() -> None:
    with client_of(scripted(CALL, serving.CHAT, tools=None)) as client:
        told = whole_and_streamed(client, **CHAT)
        assert told == (None, [("weather", json.dumps(ARGUMENTS))], "tool_calls")


@pytest.mark.parametrize("template", [serving.TOOLS, serving.CHAT])
def test_a_chat_in_python_has_tools(template: str) -> None:
    asked = {} if template == serving.TOOLS else {"tools": None}
    model = scripted(f"the dog: {CALL}", template, **asked)
    expected = ("", "the dog:", [("weather", json.dumps(ARGUMENTS))])
    assert model.chat(MESSAGES, tools=TOOLS, greedy=True).answer == expected
    text = MESSAGES[0]["content"]
    assert model.generate(text, tools=TOOLS, greedy=True).answer == expected
    events = [*model.generate(text, tools=TOOLS, greedy=True).events()]
    assert joined(events) == expected
    many = model.generate_many([text] * 3, tools=TOOLS, greedy=True)
    assert [one.answer for one in many] == [expected] * 3
    assert model.generate_many([text], greedy=True, max_new_tokens=1)[0].answer is None

    async def asked_by() -> Any:
        async with AsyncModel(model) as served:
            return await (await served.chat(MESSAGES, tools=TOOLS, greedy=True))

    assert asyncio.run(asked_by()).answer == expected
    with pytest.raises(ArgumentError):
        _ = model.chat(MESSAGES, greedy=True, max_new_tokens=1).answer
    for wrong in ([{"function": {"name": "a"}}], [tool("a"), tool("a")], ["a"]):
        with pytest.raises(ArgumentError, match=r"tool [01] "):
            model.chat(MESSAGES, tools=wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="tools needs"):
        model.generate(text, tools=TOOLS, raw=True)


def test_strict_tools_in_python_are_as_on_the_server() -> None:
    """The model would rather call with what the schema refuses, or another function."""
    strict = [tool("weather", strict=True), tool("news")]
    text, document = MESSAGES[0]["content"], {"json_schema": {"const": [1, 2]}}
    for written in (CALL.replace("Oslo", "Bonn"), CALL.replace("weather", "other"), f"see {CALL}", "[1, 2]"):
        model = scripted(written)
        with client_of(model) as client:
            told = client.chat.completions.create(**{**CHAT, "tools": strict}).choices[0].message
        calls = [(call.function.name, call.function.arguments) for call in told.tool_calls or ()]
        asked: dict[str, Any] = {"tools": strict, "greedy": True, "max_new_tokens": 250}

        async def one(model: Model = model, asked: dict[str, Any] = asked) -> Any:
            async with AsyncModel(model) as served:
                return await (await served.chat(MESSAGES, **asked))

        options = {name: value for name, value in asked.items() if name != "tools"}
        conversation = Conversation(model, tools=strict)
        answers = [
            model.chat(MESSAGES, **asked), model.generate(text, **asked),
            *model.generate_many([text, text], **asked), asyncio.run(one()),
            conversation.say(text, **options),
        ]  # fmt: skip
        for answer in answers:
            assert answer.answer == ("", told.content or "", calls)
        asked["tools"] = TOOLS
        told = model.chat(MESSAGES, **asked, **document).answer
        assert told.calls or json.loads(told.text) == [1, 2]
        if written == "[1, 2]":
            many = model.generate_many([text], **asked, **document)
            for answer in (model.chat(MESSAGES, **asked, **document), *many):
                assert answer.parsed == [1, 2]
        for wrong in ({"stop_on_eos": False}, {"beams": 2}):
            with pytest.raises(LimitError, match="strict"):
                model.chat(MESSAGES, tools=strict, max_new_tokens=9, **wrong)


@pytest.mark.parametrize("template", [serving.TOOLS, serving.CHAT])
def test_a_conversation_goes_on_with_what_calls_gave(template: str) -> None:
    """Its history is read as the template writes it, and what is the same isn't read again."""
    asked = {} if template == serving.TOOLS else {"tools": None}
    model = scripted(f"the dog: {CALL}\n{CALL}", template, **asked)
    engine: Any = model.engine
    conversation = Conversation(model, tools=TOOLS)
    str(conversation.say(MESSAGES[0]["content"], greedy=True))
    assert [call["function"] for call in conversation.calls] == [
        {"name": "weather", "arguments": ARGUMENTS}
    ] * 2
    for wrong in ((), ("warm",), ("a", "b", "c")):
        with pytest.raises(ArgumentError):
            conversation.give_results(*wrong)
    answer = conversation.give_results("warm", "cold", greedy=True)
    engine.script = {
        len(answer.prompt) + i: token for i, token in enumerate([*model.text.encode("mat"), STOP])
    }
    assert str(answer) == "mat"
    ids = [call["id"] for call in conversation.messages[1]["tool_calls"]]
    assert len({*ids}) == 2
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", one) for one in ids)
    function = {"name": "weather", "arguments": ARGUMENTS}
    calls = [{"id": one, "type": "function", "function": function} for one in ids]
    results = [
        {"role": "tool", "content": text, "name": "weather", "tool_call_id": one}
        for text, one in zip(("warm", "cold"), ids, strict=True)
    ]
    said = [*MESSAGES, {"role": "assistant", "content": "the dog:", "tool_calls": calls}, *results]
    assert conversation.messages == [*said, {"role": "assistant", "content": "mat"}]
    assert answer.prompt == model.chat(said, tools=TOOLS).prompt
    assert answer.timings["cached_tokens"] > 0
    assert not conversation.calls


def test_messages_for_a_template_without_tools() -> None:
    call = {"function": {"name": "weather", "arguments": ARGUMENTS}}
    asked = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "I look.", "tool_calls": [call, call]},
        {"role": "tool", "content": "rain", "tool_call_id": "a"},
        {"role": "tool", "content": "sun", "tool_call_id": "b"},
    ]
    told = explained(asked, TOOLS)
    assert [message["role"] for message in told] == ["system", "user", "assistant", "user"]
    assert all(message.keys() == {"role", "content"} for message in told)
    assert "weather" in told[0]["content"]
    answer = read_answer(told[2]["content"], BY_NAME["hermes"], {"weather": {}})
    assert (answer.text, [json.loads(each.arguments) for each in answer.calls]) == (
        "I look.",
        [ARGUMENTS] * 2,
    )
    assert re.findall("rain|sun", told[3]["content"]) == ["rain", "sun"]
    assert "weather" in explained(asked[1:], TOOLS)[0]["content"]
    assert explained(asked[:2], None) == asked[:2]


THINKING = serving.TOOLS.replace(
    "<|im_start|>assistant\n{% endif %}",
    """<|im_start|>assistant
{% if enable_thinking is not defined or enable_thinking %}<think>
{% else %}<think>

</think>

{% endif %}{% endif %}""",
)
OTHERWISE: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}


def thoughts_and_answer(client: openai.OpenAI, **body: Any) -> tuple[str | None, str | None, list[str], str]:
    """The same whole and streamed."""
    answer = client.chat.completions.create(**body).choices[0]
    thoughts = getattr(answer.message, "reasoning_content", None)
    calls = [call.function.arguments for call in answer.message.tool_calls or ()]
    told = streamed(client, **body)
    assert (told.thoughts, told.content) == (thoughts or "", answer.message.content or "")
    assert [call.function.arguments for call in told.calls] == calls
    return thoughts, answer.message.content, calls, answer.finish_reason


def test_thoughts_are_told_apart() -> None:
    with client_of(scripted(f"\nthe cat\n\nsat\n</think>\n\nthe mat {CALL}", THINKING)) as client:
        told = thoughts_and_answer(client, **CHAT)
        assert told == ("the cat\n\nsat", "the mat", [json.dumps(ARGUMENTS)], "tool_calls")
        cut = thoughts_and_answer(client, **{**CHAT, "max_tokens": 3})
        assert (cut[0] or "", cut[1:]) == ("the cat"[: len(cut[0] or "")], ("", [], "length"))
    with client_of(scripted("the mat", THINKING, chat_template_kwargs={"enable_thinking": False})) as client:
        for more in ({"reasoning_effort": "none"}, {"extra_body": OTHERWISE}):
            assert thoughts_and_answer(client, **{**CHAT, **more}) == (None, "the mat", [], "stop")
    with client_of(scripted("the mat", THINKING)) as client:
        assert thoughts_and_answer(client, **CHAT)[:2] == ("the mat", "")


def test_thoughts_come_before_what_is_asked_for() -> None:
    """A call, a document, an expression."""
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": [1, 2]}}}
    with client_of(scripted(f"hm</think>{CALL}", THINKING)) as client:
        asked = thoughts_and_answer(client, **{**CHAT, "tool_choice": "required"})
        assert asked == ("hm", None, [json.dumps(ARGUMENTS)], "tool_calls")
    with client_of(scripted("hm</think>[1, 2]", THINKING)) as client:
        assert thoughts_and_answer(client, **{**CHAT, "response_format": schema}) == (
            "hm",
            "[1, 2]",
            [],
            "stop",
        )
    with client_of(scripted("hm</think>[1, 2]", THINKING, tools=None)) as client:
        alone = {**CHAT, "response_format": schema, "tools": None}
        assert thoughts_and_answer(client, **alone) == ("hm", "[1, 2]", [], "stop")
        worded = {
            **CHAT,
            "extra_body": {"structured_outputs": {"regex": "a+b"}},
            "tools": None,
            "max_tokens": 90,
        }
        thoughts, text, _, reason = thoughts_and_answer(client, **worded)
        assert thoughts is None
        assert reason == "length" or re.fullmatch("a+b", text or "")


@pytest.mark.parametrize("budget", [0, 3, 500])
def test_thoughts_have_a_budget(budget: int) -> None:
    """In requests and in Python, alone and before a document, which is whole."""
    thought = "the cat sat on the mat"
    model = scripted(f"{thought}</think>the dog", THINKING)
    expected = model.text.decode(model.text.encode(thought)[:budget]).strip()
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": [1, 2]}}}
    with client_of(model) as client:
        asked = {**CHAT, "extra_body": {"thinking_token_budget": budget}}
        thoughts, text, _, _ = thoughts_and_answer(client, **asked)
        assert (thoughts or "") == expected
        assert budget < 500 or text == "the dog"
    with client_of(scripted(f"{thought}</think>[1, 2]", THINKING, tools=None)) as client:
        asked |= {"tools": None, "response_format": schema}
        thoughts, text, _, _ = thoughts_and_answer(client, **asked)
        assert ((thoughts or ""), json.loads(text or "")) == (expected, [1, 2])
    options: Any = {"tools": TOOLS, "greedy": True, "max_new_tokens": 40, "thinking_token_budget": budget}
    assert model.chat(MESSAGES, **options).answer.thoughts == expected
    (many,) = model.generate_many([MESSAGES[0]["content"]], **options)
    assert many.answer is not None
    assert many.answer.thoughts == expected
    for wrong in ({"thinking_token_budget": -1}, {"beams": 2, "greedy": None}):
        with pytest.raises(LimitError, match="thinking_token_budget"):
            model.chat(MESSAGES, **{**options, **wrong})


def test_a_document_or_a_call() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": [1, 2]}}}
    for text, told in ((CALL, (None, 1)), ("[1, 2]", ("[1, 2]", 0)), ("the cat", ("[1, 2]", 0))):
        with client_of(scripted(text)) as client:
            content, calls, _ = whole_and_streamed(client, **{**CHAT, "response_format": schema})
            assert (content, len(calls)) == told or "cat" in text


@pytest.mark.parametrize(
    "language",
    [
        {"structured_outputs": {"regex": "(cat|dog/s)"}},
        pytest.param({"structured_outputs": {"choice": ["cat", "dog/s"]}}, marks=pytest.mark.long),
        {"grammar": 'root ::= "cat" | "dog/s"'},
        pytest.param({"structured_outputs": {"grammar": 'start: "cat" | "dog/s"'}}, marks=pytest.mark.long),
    ],
)
def test_a_text_of_a_language_or_a_call(language: dict[str, Any]) -> None:
    """And thoughts before either; with a tool_choice that asks for a call it is one."""
    for text, told in ((CALL, (None, 1)), ("dog/s", ("dog/s", 0)), ("the dog", ("dog/s", 0))):
        with client_of(scripted(text)) as client:
            content, calls, reason = whole_and_streamed(client, **CHAT, extra_body=language)
            assert (content, len(calls)) == told or ("the" in text and content == "cat")
            assert reason == ("tool_calls" if calls else "stop")
    with client_of(scripted("hm</think>dog/s", THINKING)) as client:
        assert thoughts_and_answer(client, **CHAT, extra_body=language)[:2] == ("hm", "dog/s")
    with client_of(scripted(CALL)) as client:
        _, calls, _ = whole_and_streamed(client, **CHAT, extra_body=language, tool_choice="required")
        assert len(calls) == 1


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_only_allowed_tools_are_called(mode: str) -> None:
    """The model is shown all of them."""
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "news"}}]}
    body = {**CHAT, "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}}
    with client_of(scripted(CALL)) as client:
        content, calls, reason = whole_and_streamed(client, **body)
        assert {name for name, _ in calls} <= {"news"}
        assert mode == "auto" or calls or reason == "length"
        assert "weather" not in (content or "")
