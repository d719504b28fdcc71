"""`/v1/responses`, by OpenAI's own package and its types: items in, the same items whole and as events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import httpx
import openai
import pytest
from helpers import agents, serving
from openai.types.responses import Response, ResponseStreamEvent
from tfm.runtime.serve.models import Server
from tfm.runtime.serve.openai_responses import Item, messages_of

TOOLS = [
    {"type": "function", "name": "weather", "parameters": agents.WEATHER, "strict": True},
    {"type": "function", "name": "clock", "parameters": agents.CLOCK, "strict": None, "defer_loading": None},
]
ASKED: dict[str, Any] = {"model": "tiny", "input": agents.QUESTION, "tools": TOOLS, "temperature": 0}
EVENTS = {  # OpenAI's types of events, by their names
    get_args(kind.model_fields["type"].annotation)[0]: kind
    for kind in get_args(get_args(ResponseStreamEvent)[0])
}
STOP = serving.TOKENIZER.token_to_id("<|im_end|>")
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": '


@pytest.fixture(scope="module")
def agent() -> Iterator[tuple[openai.OpenAI, Any, Server]]:
    model = agents.agent()
    with served({"tiny": model}) as (client, server):
        yield client, model.engine, server


@contextmanager
def served(models: dict[str, Any], **settings: Any) -> Iterator[tuple[openai.OpenAI, Server]]:
    """A client of a server of these models."""
    with (
        serving.running(models, prefix_bytes=0, **settings) as (url, server),
        httpx.Client(trust_env=False, timeout=60) as http,
    ):
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", http_client=http, max_retries=0), server


def streamed(client: openai.OpenAI, **body: Any) -> list[Any]:
    """The events, each of which OpenAI's types take, numbered."""
    with client._client.stream(
        "POST", f"{client.base_url}responses", json={**body, "stream": True}
    ) as answer:
        lines = [line for line in answer.iter_lines() if line]
    events = []
    for name, data in zip(lines[::2], lines[1::2], strict=True):
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
        EVENTS[events[-1]["type"]].model_validate(events[-1])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def said(output: list[Any]) -> list[Any]:
    """Items without their ids."""
    shown = []
    for item in output:
        match item["type"]:
            case "function_call":
                shown.append((item["name"], json.loads(item["arguments"])))
            case kind:
                shown.append((kind, item["content"][0]["text"]))
    return shown


FIRST = [("reasoning", agents.THOUGHTS), ("message", agents.BEFORE), ("weather", agents.CITY)]


def test_whole_and_streamed_are_the_same(agent: Any) -> None:
    client, _, _ = agent
    whole = client.responses.with_raw_response.create(**ASKED)
    Response.model_validate(json.loads(whole.text))
    body = json.loads(whole.text)
    assert said(body["output"]) == FIRST
    assert {item["status"] for item in body["output"]} == {"completed"}
    events = streamed(client, **ASKED)
    last = events[-1]["response"]
    assert (last["status"], said(last["output"])) == ("completed", FIRST)
    assert last["usage"] == body["usage"]
    assert last["usage"]["output_tokens_details"]["reasoning_tokens"] > 3
    deltas: dict[int, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            deltas[event["output_index"]] = deltas.get(event["output_index"], "") + event["delta"]
    assert deltas[0] == agents.THOUGHTS
    assert deltas[1] == agents.BEFORE
    assert json.loads(deltas[2]) == agents.CITY
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == last["output"]


def test_functions_of_a_namespace() -> None:
    """As Codex states them: the model calls them by both names, and history has them so."""
    spaced = {**TOOLS[0], "name": "weather"}
    asked = {**ASKED, "tools": [{"type": "namespace", "name": "city", "tools": [spaced]}, TOOLS[1]]}
    asked |= {"store": False}
    script = {n: text.replace("weather", "city__weather") for n, text in agents.SCRIPT.items()}
    model = agents.agent(script)
    with served({"tiny": model}) as (client, _):
        answer = client.responses.create(**asked)
        call = answer.output[-1].model_dump(exclude_none=True)
        assert (call["namespace"], call["name"], json.loads(call["arguments"])) == (
            "city", "weather", agents.CITY
        )  # fmt: skip
        noted = {
            **asked,
            "client_metadata": {"session": "a"},
            "stream": True,
        }  # types of 2.54 know no namespace
        *_, last = client._client.post(f"{client.base_url}responses", json=noted).text.split("data: ")
        told = json.loads(last)["response"]["output"][-1]
        assert (told["namespace"], told["name"], told["arguments"]) == ("city", "weather", call["arguments"])
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "7 degrees"}
        question = {"role": "user", "content": agents.QUESTION}
        answer = client.responses.create(**{**asked, "input": [question, call, result]})
        assert said([item.model_dump() for item in answer.output]) == [("clock", agents.ZONE)]
        assert isinstance(model.engine, agents.Agent)
        assert model.engine.prompts[-1].count("city__weather") > model.engine.prompts[0].count(
            "city__weather"
        )


@pytest.mark.parametrize("kept", [False, True])
def test_a_loop_of_two_tools(agent: Any, kept: bool) -> None:
    """By items that are sent back as they came, or by `previous_response_id`; the model is asked the same."""
    client, engine, _ = agent
    items: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": agents.QUESTION}]}]
    more: dict[str, Any] = {}
    answer: Any = None
    for _ in agents.SCRIPT:
        answer = client.responses.create(**{**ASKED, "input": items, "store": kept, **more})
        results = [
            {"type": "function_call_output", "call_id": item.call_id, "output": agents.RESULTS[item.name]}
            for item in answer.output
            if item.type == "function_call"
        ]
        items = [] if kept else items + [item.model_dump() for item in answer.output]
        items, more = items + results, {"previous_response_id": answer.id} if kept else {}
    assert answer.output_text == agents.AFTER
    # The template's own line ends differ from the script's.
    asked, second = engine.prompts[-1].replace("\n", ""), agents.SCRIPT[1]
    assert agents.SCRIPT[0].replace("\n", "") in asked
    assert f"{agents.RESULT}7 degrees<|im_end|>" in engine.prompts[-1]
    assert f"{second}<|im_end|>\n{agents.RESULT}12:30<|im_end|>" in engine.prompts[-1]


def test_what_the_model_says_at_once_is_one_message() -> None:
    text = [{"type": "output_text", "text": "b"}]
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
    items = [
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "a"}]},
        {"role": "assistant", "content": text},
        *(call, call),
        {"type": "function_call_output", "call_id": "1", "output": "c"},
        *({"role": "assistant", "content": text}, {"role": "assistant", "content": text}),
        *({"type": "reasoning", "summary": [{"type": "summary_text", "text": one}]} for one in "de"),
    ]
    made = messages_of([Item.model_validate(item) for item in items])
    assert [sorted(one.keys() - {"role"}) for one in made] == [
        ["content", "reasoning_content", "tool_calls"],
        ["content", "tool_call_id"],
        *(["content"], ["content"]),
        *(["reasoning_content"], ["reasoning_content"]),
    ]
    assert len(made[0]["tool_calls"]) == 2
    assert [one.get("reasoning_content") for one in made] == ["a", None, None, None, "d", "e"]


@pytest.mark.parametrize(
    ("asked", "top"),
    [
        ({}, None),
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, 3),
        ({"top_logprobs": 2}, 2),
    ],
)
def test_log_probabilities_are_those_of_a_chat(asked: dict[str, Any], top: int | None) -> None:
    with served({"tiny": serving.model()}) as (client, _):
        same = {"model": "tiny", "temperature": 0}
        said = client.chat.completions.create(
            **same, messages=[{"role": "user", "content": "the cat"}], max_tokens=9, logprobs=True,
            top_logprobs=top or 0,
        ).choices[0]  # fmt: skip
        body = {**same, "input": "the cat", "max_output_tokens": 9, **asked}
        response = json.loads(client.responses.with_raw_response.create(**body).text)
        Response.model_validate(response)
        (part,) = response["output"][0]["content"]
        assert part["text"] == said.message.content
        want = [one.model_dump() for one in said.logprobs.content] if top is not None else []
        for one in (named for token in want for named in (token, *token["top_logprobs"])):
            one["bytes"] = one["bytes"] or []  # OpenAI's types of this API know no null
        assert part["logprobs"] == want
        assert {len(one["top_logprobs"]) for one in want} <= {top}
        events = streamed(client, **body)
        deltas = [event for event in events if event["type"] == "response.output_text.delta"]
        assert [one for event in deltas for one in event["logprobs"]] == want
        (done,) = (event for event in events if event["type"] == "response.output_text.done")
        assert done["logprobs"] == want


def test_instructions_and_what_developers_say_are_one_message(agent: Any) -> None:
    client, engine, _ = agent
    said = [{"role": "developer", "content": "two"}, {"role": "user", "content": "three"}]
    client.responses.create(**{**ASKED, "tools": [], "instructions": "one", "input": said})
    assert engine.prompts[-1].startswith("<|im_start|>systemone\n\ntwo<|im_end|>\n<|im_start|>userthree")


def test_what_is_kept_is_its_owners_and_bounded() -> None:
    model = serving.model(template=serving.TOOLS)
    body = {"model": "tiny", "input": "the cat", "max_output_tokens": 3}
    with (
        serving.running({"tiny": model}, keys=("first", "second"), response_bytes=2500) as (url, server),
        httpx.Client(base_url=f"{url}/v1", trust_env=False, timeout=60) as http,
    ):

        def ask(method: str, path: str, key: str = "first", **more: Any) -> httpx.Response:
            return http.request(method, path, headers={"authorization": f"Bearer {key}"}, **more)

        first = ask("POST", "/responses", json=body).json()
        assert ask("GET", f"/responses/{first['id']}").json() == first
        for key, id in (("second", first["id"]), ("first", "resp_none")):
            refused = ask("POST", "/responses", key, json={**body, "previous_response_id": id})
            assert refused.status_code == 404
            assert refused.json()["error"]["code"] == "previous_response_not_found"
            assert ask("DELETE", f"/responses/{id}", key).status_code == 404
        reference = {"type": "item_reference", "id": first["output"][0]["id"]}
        again = {**body, "input": [reference, {"role": "user", "content": "and"}]}
        assert ask("POST", "/responses", json={**again, "store": False}).status_code == 200
        assert ask("POST", "/responses", "second", json=again).status_code == 404
        ids = [first["id"], *(ask("POST", "/responses", json=body).json()["id"] for _ in range(3))]
        kept = [ask("GET", f"/responses/{id}").status_code for id in ids]
        assert kept == sorted(kept, reverse=True)
        assert kept[0] == 404
        assert kept[-1] == 200
        assert ask("DELETE", f"/responses/{ids[-1]}").json()["deleted"] is True
        assert ask("GET", f"/responses/{ids[-1]}").status_code == 404
        for _ in range(20):
            ask("POST", "/responses", json=body)
            assert server.responses._nbytes <= 2500
        held = server.responses
        assert held._nbytes == sum(kept.nbytes for kept in held._kept.values())
        unkept = ask("POST", "/responses", json={**body, "store": False}).json()
        assert ask("GET", f"/responses/{unkept['id']}").status_code == 404


def test_a_cut_answer_says_so() -> None:
    """In a text, and in a call, which is none then."""
    call = f'{CALL}"Oslo"}}}}\n</tool_call>'
    within = len(serving.TOKENIZER.encode(call).ids) - len("</tool_call>") - 3
    for script, most, output in (
        ("the cat sat on the mat", 3, [("message", "the cat sat")]),
        (call, within, []),
    ):
        with served({"tiny": agents.agent({0: script})}) as (client, _):
            events = streamed(client, **ASKED, max_output_tokens=most)
            last = events[-1]["response"]
            assert events[-1]["type"] == "response.incomplete"
            assert last["incomplete_details"] == {"reason": "max_output_tokens"}
            assert said(last["output"]) == output
            whole = client.responses.with_raw_response.create(**ASKED, max_output_tokens=most)
            assert said(json.loads(whole.text)["output"]) == output


def test_a_call_that_breaks_is_text() -> None:
    """Its item was begun in a stream, and isn't in the answer."""
    with served({"tiny": agents.agent({0: f"{CALL}nothing"})}) as (client, _):
        events = streamed(client, **{**ASKED, "tools": [*TOOLS[1:], {**TOOLS[0], "strict": False}]})
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert [item["status"] for item in done] == ["incomplete", "completed"]
        (item,) = events[-1]["response"]["output"]
        assert item["content"][0]["text"].startswith(CALL)


def test_text_format_and_a_call_that_is_asked_for() -> None:
    with served({"tiny": serving.model(serving.Scripted(), serving.TOOLS, eos=(STOP,))}) as (client, _):
        schema = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"]}
        schema["additionalProperties"] = False
        form = {"type": "json_schema", "name": "made", "schema": schema, "strict": True}
        asked = {**ASKED, "tools": None, "text": {"format": form}, "max_output_tokens": 60}
        assert json.loads(client.responses.create(**asked).output_text) == {"a": "x"}
        assert "json_schema" in str(streamed(client, **asked)[-1]["response"]["text"])
        choice = {"type": "function", "name": "clock"}
        events = streamed(client, **ASKED, tool_choice=choice, max_output_tokens=40)
        added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
        assert [item.get("name") for item in added] == ["clock"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input"),
        ({"input": []}, "input"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"text": {"verbosity": "low"}}, "text"),
        ({"temperature": -1}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tool_choice": {"type": "function", "name": "none"}}, None),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(
    agent: Any, body: dict[str, Any], param: str
) -> None:
    client, _, server = agent
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/responses", cast_to=object, body={**ASKED, **body})
    assert refused.value.param == param
    assert not server.models["tiny"].model.worker.running


def test_what_changes_nothing_is_taken(agent: Any) -> None:
    client, _, _ = agent
    nothing = {"user": "me", "metadata": {"a": "b"}, "prompt_cache_key": "x", "service_tier": "auto"}
    harmless = {"include": ["reasoning.encrypted_content"], "conversation": None, "max_tool_calls": None}
    answer = client.post("/responses", cast_to=object, body={**ASKED, **nothing, **harmless})
    assert answer["metadata"] == {"a": "b"}


def test_an_error_in_a_stream_is_its_last_event() -> None:
    gate = serving.Gate()
    gate.error = RuntimeError("secret")
    gate.open()
    with served({"tiny": serving.model(gate, serving.TOOLS)}) as (client, server):
        last = streamed(client, **{**ASKED, "tools": None, "input": "the"})[-1]
        assert (last["type"], last["message"]) == ("error", "internal error")
        serving.idle(server)
