"""ollama's API, and the routes for tokenizers and templates. ollama's own client asks it among the clients
(`test_agents.py`)."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from helpers import agents, serving
from helpers.served import MODELS
from tfm.runtime.serve.app import INSTEAD, ROUTES

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": getattr(agents, name.upper())}}
    for name in agents.RESULTS
]
ASKED: dict[str, Any] = {
    "model": "agent",
    "messages": [{"role": "user", "content": agents.QUESTION}],
    "tools": TOOLS,
    "options": {"temperature": 0, "num_ctx": 4096, "top_k": 0, "min_p": 0, "num_predict": -1},
    "keep_alive": "5m",
}


@pytest.fixture(scope="module")
def agent() -> Iterator[tuple[httpx.Client, Any]]:
    model = agents.agent()
    models = {"agent": model, "pool": MODELS["pool"]}
    with (
        serving.running(models, prefix_bytes=0, slots=1) as (url, _),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
    ):
        yield http, model.engine


def whole_and_streamed(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    """The answer; joined from its lines it is the same, but for times."""
    whole = http.post(path, json={**body, "stream": False})
    assert whole.status_code == 200, whole.text
    lines = [json.loads(line) for line in http.post(path, json=body).text.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    joined: dict[str, Any] = {"tool_calls": []}
    for line in lines:
        part = line.get("message", line)
        for key in ("content", "response", "thinking"):
            joined[key] = joined.get(key, "") + part.get(key, "")
        joined["tool_calls"] += part.get("tool_calls", [])
    told = whole.json()
    part = told.get("message", told)
    for key, value in joined.items():
        assert part.get(key, type(value)()) == value
    for key in ("done_reason", "prompt_eval_count", "eval_count"):
        assert told[key] == lines[-1][key]
    return told


def test_a_loop_of_two_tools(agent: Any) -> None:
    http, engine = agent
    messages: list[Any] = [*ASKED["messages"]]
    message: dict[str, Any] = {}
    for n in agents.SCRIPT:
        message = whole_and_streamed(http, "/api/chat", **{**ASKED, "messages": messages})["message"]
        if n == 0:
            assert (message["thinking"], message["content"]) == (agents.THOUGHTS, agents.BEFORE)
            assert message["tool_calls"] == [{"function": {"name": "weather", "arguments": agents.CITY}}]
        messages.append(message)
        for call in message.get("tool_calls", ()):
            name = call["function"]["name"]
            messages.append({"role": "tool", "tool_name": name, "content": agents.RESULTS[name]})
    assert message["content"] == agents.AFTER
    assert agents.SCRIPT[0].replace("\n", "") in engine.prompts[-1].replace("\n", "")


def test_one_message_is_answered(agent: Any) -> None:
    http, _ = agent
    asked = {"model": "agent", "prompt": "the cat", "system": "be kind", "options": {"stop": ["look"]}}
    told = whole_and_streamed(http, "/api/generate", **asked)
    assert (told["thinking"], told["response"], told["done_reason"]) == (agents.THOUGHTS, "Let me ", "stop")
    cut = whole_and_streamed(http, "/api/generate", **{**asked, "options": {"num_predict": 3}})
    assert (cut["done_reason"], cut["eval_count"]) == ("length", 3)
    loaded = http.post("/api/generate", json={"model": "agent"}).json()
    assert (loaded["done"], loaded["done_reason"], loaded["response"]) == (True, "load", "")


def test_a_raw_prompt_is_continued(agent: Any) -> None:
    """Without a template: it is the text of `/v1/completions`, and ends where the context does."""
    http, _ = agent
    asked = {"model": "tiny", "prompt": "the cat sat", "raw": True, "options": {"temperature": 0}}
    with (
        serving.running({"tiny": serving.model(eos=(serving.TOKENIZER.token_to_id("<|im_end|>"),))}) as (
            url,
            _,
        ),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as tiny,
    ):
        same = {"model": "tiny", "prompt": "the cat sat", "temperature": 0}
        for options, most in (({}, -1), ({"num_predict": 5}, 5)):
            told = whole_and_streamed(
                tiny, "/api/generate", **{**asked, "options": {"temperature": 0, **options}}
            )
            want = tiny.post("/v1/completions", json={**same, "max_tokens": most}).json()
            assert told["response"] == want["choices"][0]["text"]
            assert told["eval_count"] == want["usage"]["completion_tokens"]
            assert told["prompt_eval_count"] == want["usage"]["prompt_tokens"]
        told = whole_and_streamed(tiny, "/api/generate", **{**asked, "format": {"enum": ["a dog"]}})
        assert json.loads(told["response"]) == "a dog"
    assert http.post("/api/generate", json={**asked, "model": "agent", "system": "b"}).status_code == 400
    assert http.post("/api/generate", json={**asked, "model": "pool"}).status_code == 400


def test_texts_are_embedded(agent: Any) -> None:
    http, _ = agent
    texts = ["the cat", "a dog"]
    told = http.post("/api/embed", json={"model": "pool", "input": texts, "truncate": False}).json()
    assert np.array_equal(np.array(told["embeddings"], np.float32), MODELS["pool"].embed(texts))
    refused = http.post("/api/embed", json={"model": "pool", "input": texts, "dimensions": 3})
    assert (refused.status_code, "dimensions" in refused.json()["error"]) == (400, True)


def test_what_is_said_of_models(agent: Any) -> None:
    http, _ = agent
    assert [one["name"] for one in http.get("/api/tags").json()["models"]] == ["agent", "pool"]
    assert [one["model"] for one in http.get("/api/ps").json()["models"]] == ["agent", "pool"]
    assert http.post("/api/show", json={"model": "agent"}).json()["capabilities"] == ["completion", "tools"]
    assert http.post("/api/show", json={"name": "pool"}).json()["capabilities"] == ["embedding"]
    assert http.get("/api/version").json().keys() == {"version"}
    assert http.get("/props").json()["total_slots"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {"options": {"mirostat": 2}},
        {"options": {"top_p": 7}},
        {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]},
        {"format": "yaml"},
        {"template": "x"},
    ],
)
def test_what_would_change_the_answer_is_refused(agent: Any, body: dict[str, Any]) -> None:
    """The error is a text, as ollama has it."""
    http, _ = agent
    refused = http.post("/api/chat", json={**ASKED, **body})
    assert refused.status_code == 400
    assert next(iter(body)).rstrip("s") in refused.json()["error"] or "top_p" in refused.json()["error"]


def test_texts_become_tokens_and_texts_again(agent: Any) -> None:
    http, _ = agent
    text = "the cat 你好"
    told = http.post("/tokenize", json={"model": "agent", "content": text}).json()
    assert told["tokens"] == serving.TOKENIZER.encode(text, add_special_tokens=False).ids
    assert told["count"] == len(told["tokens"])
    again = http.post("/detokenize", json={"model": "agent", "tokens": told["tokens"]}).json()
    assert again["content"] == text
    for ids in ([10**6], [2**70], [-1]):
        assert http.post("/detokenize", json={"model": "agent", "tokens": ids}).status_code == 400
    assert http.post("/tokenize", json={"model": "agent", "prompt": "a", "content": "b"}).status_code == 400
    asked = {"model": "agent", "messages": [{"role": "user", "content": "the cat"}]}
    applied = http.post("/apply-template", json=asked).json()
    assert applied["prompt"] == "<|im_start|>userthe cat<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/api/v1/chat/completions", "/v1/chat/completions"),
        ("/tags", "/api/tags"),
    ],
)
def test_a_wrong_base_path_is_told_the_right_one(agent: Any, path: str, meant: str) -> None:
    http, _ = agent
    assert http.post(path, json={}).json()["error"]["message"].endswith(f" mean {meant}?")
    assert "mean" not in http.get("/nowhere").text


@pytest.mark.parametrize("path", INSTEAD)
def test_another_servers_path_is_told_what_to_do_instead(agent: Any, path: str) -> None:
    """The routes and commands of the answer are there; ollama's clients read an error as a text."""
    http, _ = agent
    for below in (path, f"{path}/", f"{path}/sha256:0"):
        answer = http.post(below, json={})
        assert answer.status_code == 404
        told = answer.json()["error"]
        told = told if path.startswith("/api/") else told["message"]
        assert told.endswith(f": {INSTEAD[path]}")
    routes = {route.path for route in ROUTES}
    assert path not in routes
    assert set(re.findall(r"(?<!\S)/[\w/]+", INSTEAD[path])) <= routes
    commands = re.findall(r"`tfm-cli (\w+)", INSTEAD[path])
    assert all(importlib.util.find_spec(f"tfm.cli.commands.{name}") for name in commands)


def test_a_longer_word_is_another_path(agent: Any) -> None:
    http, _ = agent
    assert "mean /v1/completions?" in http.post("/completions", json={}).text
    assert http.post("/api/pulled", json={}).json()["error"].endswith("'/api/pulled'")


def test_the_tag_latest_is_the_model_without_a_tag(agent: Any) -> None:
    """ollama's clients add it to a name that has no tag."""
    http, _ = agent
    for path, name in (("/api/show", "agent:latest"), ("/api/embed", "pool:latest")):
        answer = http.post(path, json={"model": name, **({"input": "x"} if "embed" in path else {})})
        assert answer.status_code == 200, answer.text
    assert "'none:latest'" in http.post("/api/show", json={"model": "none:latest"}).json()["error"]
    assert http.post("/api/show", json={"model": "agent:1b"}).status_code == 404
    assert http.post("/api/show", json={"model": ":latest"}).status_code == 404
