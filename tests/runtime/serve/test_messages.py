"""`/v1/messages`: blocks in, the same blocks whole and as events. Anthropic's own package asks it among the
clients (`test_agents.py`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from helpers import agents, serving
from tfm.runtime.serve.anthropic_messages import MessagesBody

TOOLS = [
    {"name": "weather", "input_schema": agents.WEATHER, "cache_control": {"type": "ephemeral"}},
    {"name": "clock", "input_schema": agents.CLOCK, "type": "custom", "eager_input_streaming": True},
]
ASKED: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 300,
    "messages": [{"role": "user", "content": agents.QUESTION}],
    "tools": TOOLS,
    "temperature": 0,
}
FIRST = [
    {"type": "thinking", "thinking": agents.THOUGHTS, "signature": ""},
    {"type": "text", "text": agents.BEFORE},
    {"type": "tool_use", "name": "weather", "input": agents.CITY},
]


@pytest.fixture(scope="module")
def agent() -> Iterator[tuple[httpx.Client, Any]]:
    model = agents.agent()
    with (
        serving.running({"tiny": model}, prefix_bytes=0) as (url, _),
        httpx.Client(base_url=f"{url}/v1", trust_env=False, timeout=60) as http,
    ):
        yield http, model.engine


def ask(http: httpx.Client, **body: Any) -> dict[str, Any]:
    """The answer; streamed it is the same but for ids."""
    whole = http.post("/messages", json={**ASKED, **body})
    assert whole.status_code == 200, whole.text
    told, message = joined(http, **body), whole.json()
    for one in (told, message):
        assert one.pop("id").startswith("msg_")
        for block in one["content"]:
            assert block["type"] != "tool_use" or block.pop("id").startswith("toolu_")
    assert told == message
    return message


def test_what_system_says_later_is_the_users(agent: Any) -> None:
    """As Claude Code says it, and messages of the user that follow each other are one."""
    http, engine = agent
    later = {"role": "system", "content": [{"type": "text", "text": "Be kind."}]}
    asked = [*ASKED["messages"], later, {"role": "user", "content": "Now."}]
    ask(http, system="Be brief.", messages=[{"role": "system", "content": "At first."}, *asked])
    read = engine.prompts[-1]
    assert "<|im_start|>systemBe brief.\n\nAt first." in read
    text = f"{agents.QUESTION}\n\nBe kind.\n\nNow."
    ask(http, system="Be brief.\n\nAt first.", messages=[{"role": "user", "content": text}])
    assert read == engine.prompts[-1]
    wrong = {"role": "system", "content": [{"type": "tool_result", "tool_use_id": "a"}]}
    assert http.post("/messages", json={**ASKED, "messages": [wrong, *asked]}).status_code == 400


def joined(http: httpx.Client, **body: Any) -> dict[str, Any]:
    """What a client makes of the events."""
    message: dict[str, Any] = {}
    with http.stream("POST", "/messages", json={**ASKED, **body, "stream": True}) as answer:
        lines = [line for line in answer.iter_lines() if line]
    open_at, pieces = None, ""
    for name, data in zip(lines[::2], lines[1::2], strict=True):
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert open_at is None
                assert event["index"] == len(message["content"])
                open_at, pieces = event["index"], ""
                message["content"].append(event["content_block"])
            case "content_block_delta":
                assert event["index"] == open_at
                (piece,) = (event["delta"][key] for key in event["delta"].keys() - {"type"})
                pieces += piece
            case "content_block_stop":
                block = message["content"][open_at]
                field = {"tool_use": "input"}.get(block["type"], block["type"])
                block[field] = json.loads(pieces) if field == "input" else pieces
                open_at = None
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
            case kind:
                assert kind == "message_stop"
    return message


def test_a_loop_of_two_tools(agent: Any) -> None:
    """Blocks are sent back as they came, with marks for a cache beside them."""
    http, engine = agent
    messages: list[Any] = [*ASKED["messages"]]
    answer: dict[str, Any] = {}
    for n in agents.SCRIPT:
        answer = ask(http, messages=messages, system=[{"type": "text", "text": "be kind"}])
        assert n or answer["content"] == FIRST
        assert answer["stop_reason"] == ("end_turn" if n == 2 else "tool_use")
        whole = http.post("/messages", json={**ASKED, "messages": messages}).json()
        results = [
            {
                "type": "tool_result",
                "tool_use_id": block["id"],
                "content": [{"type": "text", "text": agents.RESULTS[block["name"]]}],
                "cache_control": {"type": "ephemeral"},
                "is_error": False,
            }
            for block in whole["content"]
            if block["type"] == "tool_use"
        ]
        messages += [{"role": "assistant", "content": whole["content"]}, {"role": "user", "content": results}]
    assert answer["content"] == [{"type": "text", "text": agents.AFTER}]
    asked = engine.prompts[-1].replace("\n", "")
    assert agents.SCRIPT[0].replace("\n", "") in asked
    assert f"{agents.RESULT}12:30<|im_end|>" in asked


def test_tokens_are_counted_as_they_are_read(agent: Any) -> None:
    http, _ = agent
    counted = {key: value for key, value in ASKED.items() if key not in ("max_tokens", "temperature")}
    told = http.post("/messages/count_tokens", json={**counted, "system": "be kind"}).json()
    assert told == {"input_tokens": ask(http, system="be kind")["usage"]["input_tokens"]}


def test_a_result_and_a_text_are_messages_of_their_own(agent: Any) -> None:
    http, engine = agent
    call = {"type": "tool_use", "id": "a", "name": "weather", "input": {}}
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": "7"},
        {"type": "tool_result", "tool_use_id": "b"},
        {"type": "text", "text": "and "},
        {"type": "text", "text": "now?"},
    ]
    said = [
        *ASKED["messages"],
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": results},
    ]
    http.post("/messages", json={**ASKED, "messages": said})
    tool = agents.RESULT
    assert f"{tool}7<|im_end|>\n{tool}<|im_end|>\n<|im_start|>userand now?<|im_end|>" in engine.prompts[-1]


def test_why_an_answer_ended(agent: Any) -> None:
    http, _ = agent
    cut = ask(http, max_tokens=4)
    assert (cut["stop_reason"], cut["usage"]["output_tokens"]) == ("max_tokens", 4)
    stopped = ask(http, stop_sequences=["nothing", "look"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "look")
    assert stopped["content"][-1]["text"] == "Let me "


def test_a_call_that_breaks_is_text() -> None:
    model = agents.agent({0: '<tool_call>\n{"name": "weather", "arguments": {"city": nothing'})
    with (
        serving.running({"tiny": model}, prefix_bytes=0) as (url, _),
        httpx.Client(base_url=f"{url}/v1", trust_env=False, timeout=60) as http,
    ):
        told = http.post("/messages", json=ASKED).json()
    assert [block["type"] for block in told["content"]] == ["text"]
    assert told["stop_reason"] == "end_turn"


def test_one_call_at_a_time() -> None:
    for stated, several in ((True, False), (False, None), (None, None)):
        choice = {"type": "auto", "disable_parallel_tool_use": stated}
        body = MessagesBody.model_validate({**ASKED, "tool_choice": choice})
        assert body.chat().parallel_tool_calls is several


def test_a_call_that_is_asked_for_and_a_document() -> None:
    stop = serving.TOKENIZER.token_to_id("<|im_end|>")
    model = serving.model(serving.Scripted(), serving.TOOLS, eos=(stop,))
    with (
        serving.running({"tiny": model}, prefix_bytes=0) as (url, _),
        httpx.Client(base_url=f"{url}/v1", trust_env=False, timeout=60) as http,
    ):
        schema = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"]}
        schema["additionalProperties"] = False
        tools = [{"name": name, "input_schema": schema} for name in ("weather", "clock")]
        for choice in ({"type": "tool", "name": "clock"}, {"type": "any", "disable_parallel_tool_use": True}):
            (called,) = ask(http, tools=tools, tool_choice=choice)["content"]
            assert (called["type"], called["input"]) == ("tool_use", {"a": "x"})
            assert choice.get("name") in (None, called["name"])
        form = {"format": {"type": "json_schema", "schema": schema}}
        told = ask(http, tools=None, output_config=form)
        assert json.loads(told["content"][0]["text"]) == {"a": "x"}


@pytest.mark.parametrize(
    ("thinking", "switched"),
    [({"type": "disabled"}, "False"), ({"type": "adaptive"}, "True"), (None, "None")],
)
def test_thinking_is_the_templates_switch(thinking: Any, switched: str) -> None:
    template = serving.CHAT + "{{ enable_thinking }}"
    model = serving.model(template=template)
    with (
        serving.running({"tiny": model}) as (url, server),
        httpx.Client(base_url=f"{url}/v1", trust_env=False, timeout=60) as http,
    ):
        body = {key: value for key, value in ASKED.items() if key in ("model", "messages")}
        told = http.post("/messages/count_tokens", json={**body, "thinking": thinking})
        variables = (
            {} if thinking is None else {"chat_template_kwargs": {"enable_thinking": switched == "True"}}
        )
        ids = server.models["tiny"].model.model.chat_template.encode(body["messages"], **variables)
        assert told.json()["input_tokens"] == len(ids)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": []}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}]}, "messages"),
        ({"messages": []}, "messages"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools"),
        ({"max_tokens": None}, "max_tokens"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"container": "x"}, "container"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management"),
        ({"thinking": {"type": "always"}}, "thinking"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(agent: Any, body: Any, param: str) -> None:
    http, _ = agent
    refused = http.post("/messages", json={**ASKED, **body})
    assert refused.status_code == 400
    assert refused.json()["type"] == "error"
    assert refused.json()["error"]["param"] == param


def test_what_changes_nothing_is_taken(agent: Any) -> None:
    http, _ = agent
    edit = {"type": "clear_thinking_20251015", "keep": "all"}
    harmless = {
        "metadata": {"user_id": None},
        "service_tier": "auto",
        "context_management": {"edits": [edit]},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"effort": "high"},
        "cache_control": {"type": "ephemeral"},
        "container": None,
        "top_k": 0,
    }
    assert ask(http, **harmless)["content"] == FIRST


def test_thoughts_have_the_budget_that_is_asked_for() -> None:
    body = {"model": "a", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}]}
    thinking = {"type": "enabled", "budget_tokens": 5}
    assert MessagesBody.model_validate({**body, "thinking": thinking}).chat().thinking_token_budget == 5
    assert MessagesBody.model_validate(body).chat().thinking_token_budget is None


def test_a_key_may_come_as_anthropics_clients_send_it() -> None:
    with (
        serving.running({"tiny": serving.model()}, keys=("first",)) as (url, _),
        httpx.Client(base_url=f"{url}/v1", trust_env=False) as http,
    ):
        for key, status in (("first", 200), ("second", 401)):
            assert http.get("/models", headers={"x-api-key": key}).status_code == status
        both = {"x-api-key": "second", "authorization": "Bearer first"}
        assert http.get("/models", headers=both).status_code == 401
