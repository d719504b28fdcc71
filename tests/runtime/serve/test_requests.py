"""Bodies of requests: what isn't valid is refused and named, and nothing stays behind."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import httpx
import pytest
from helpers import serving
from helpers.served import CHAT, golden
from jsonschema import Draft202012Validator
from tfm.runtime.serve.app import ROUTES

INVALID: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"seed": 2**63}, "seed"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": "a" * 257}, "stop"),
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"n": True}, "n"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"99999": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 2**31}, "max_tokens"),
    ({"store": True}, "store"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ({"best_of": 2}, "best_of"),
    ({"model": "other"}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages"),
    ({"messages": [{"role": "judge", "content": "a"}]}, "messages"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "file:///a"}]}]},
        "messages",
    ),
]


@pytest.mark.parametrize(("change", "param"), INVALID)
def test_an_invalid_field_is_named(http: httpx.Client, change: dict[str, Any], param: str) -> None:
    answer = http.post("/v1/chat/completions", json={**CHAT, **change})
    error = answer.json()["error"]
    assert answer.status_code == (404 if param == "model" else 400), error
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert param in error["message"] or param == "model"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]},
            "messages.0.content: this server accepts only content of type 'text', got 'image_url'",
        ),
        ({"stop": ["a"] * 6}, "stop: the list of stop texts may have at most 4 texts, got 6"),
        ({"mirostat": 2}, "mirostat: unknown field"),
    ],
)
def test_what_people_ask_for_is_told_in_their_words(
    http: httpx.Client, change: dict[str, Any], reason: str
) -> None:
    answer = http.post("/v1/chat/completions", json={**CHAT, **change})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(reason)


def test_harmless_fields_pass(http: httpx.Client) -> None:
    harmless = {
        "user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "n": 1,
        "response_format": {"type": "text"}, "logit_bias": None, "stop": None, "stream": False,
        "max_completion_tokens": 9,
    }  # fmt: skip
    answer = http.post("/v1/chat/completions", json={**CHAT, **harmless})
    assert answer.json()["choices"][0]["message"]["content"] == golden()


SOUNDS = {"/v1/audio/transcriptions", "/v1/audio/translations"}  # which take a form
# A body for each other route that takes one.
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**CHAT, "max_tokens": 1},
    "/v1/completions": {"model": "tiny", "prompt": "a", "max_tokens": 2},
    "/v1/embeddings": {"model": "pool", "input": "a"},
    "/v1/rerank": {"model": "relevance", "query": "a", "documents": ["b"]},
    "/v1/classify": {"model": "labels", "input": "a"},
    "/v1/responses": {"model": "tiny", "input": "a", "max_output_tokens": 1},
    "/v1/messages": {"model": "tiny", "messages": CHAT["messages"], "system": "b", "max_tokens": 1},
    "/v1/messages/count_tokens": {"model": "tiny", "messages": CHAT["messages"]},
    "/api/chat": {"model": "tiny", "messages": CHAT["messages"], "options": {"num_predict": 1}},
    "/api/generate": {"model": "tiny", "prompt": "a", "options": {"num_predict": 1}},
    "/api/embed": {"model": "pool", "input": ["a"]},
    "/api/show": {"model": "tiny"},
    "/tokenize": {"model": "tiny", "prompt": "a"},
    "/detokenize": {"model": "tiny", "tokens": [1]},
    "/apply-template": CHAT,
}


def test_openapi_describes_every_route_and_its_body(http: httpx.Client) -> None:
    made = http.get("/openapi.json").json()
    assert made["openapi"] == "3.1.0"
    assert made["info"].keys() == {"title", "version"}
    described = {(path, method.upper()) for path, methods in made["paths"].items() for method in methods}
    served = {(one.path_format, method) for one in ROUTES for method in one.methods or ()}
    assert described == {one for one in served if one[1] != "HEAD"}
    operations = [one for methods in made["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert all(one["summary"] and one["responses"] for one in operations)
    Draft202012Validator.check_schema({"$defs": made["components"]["schemas"]})
    for path, methods in made["paths"].items():
        named = {one["name"] for one in next(iter(methods.values())).get("parameters", ()) if one["required"]}
        assert named == set(re.findall("{(.*?)}", path)), path
    bodies = {
        path: methods["post"]["requestBody"]["content"].keys()
        for path, methods in made["paths"].items()
        if "post" in methods
    }
    assert {path for path, forms in bodies.items() if forms == {"multipart/form-data"}} == SOUNDS
    assert bodies.keys() - SOUNDS == VALID.keys()
    for path, body in VALID.items():
        stated = made["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        judge = Draft202012Validator({**stated, "components": made["components"]})
        assert http.post(path, json=body).status_code == 200, path
        judge.validate(body)
        assert not judge.is_valid({**body, "model": 3})
        assert not judge.is_valid({**body, "nobody_knows": 1})
    with serving.running({}, keys=("key",)) as (url, _), httpx.Client(base_url=url, trust_env=False) as keyed:
        made = keyed.get("/openapi.json", headers={"authorization": "Bearer key"}).json()
        assert made["security"] == [{name: []} for name in made["components"]["securitySchemes"]]


# Values that hardly any field takes.
BAD = (-1, -(2**70), 2**70, 1e308, "x", "", [], {}, [[]], [None], {"a": {}}, True, [1.5])


def test_300_drawn_invalid_requests_are_all_refused(http: httpx.Client) -> None:
    """Each is 4xx with a message, none 5xx, and the next valid one is answered as ever."""
    rng = random.Random(8)
    fields = {
        "/v1/chat/completions": [
            "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed", "n",
            "repetition_penalty", "max_tokens", "messages", "top_logprobs", "stream_options", "nobody_knows",
        ],
        "/v1/completions": ["prompt", "n", "logprobs", "max_tokens", "best_of", "echo", "logit_bias"],
        "/v1/embeddings": ["input", "encoding_format", "dimensions", "model"],
        "/v1/rerank": ["query", "documents", "top_n"],
        "/v1/classify": ["input", "model", "extra"],
    }  # fmt: skip
    refused = 0
    while refused < 300:
        path = rng.choice(list(fields))
        body: Any = {**VALID[path], rng.choice(fields[path]): rng.choice(BAD)}
        match rng.randrange(10):
            case 0:
                text = json.dumps(body)[: rng.randrange(1, 20)]
            case 1:
                text = json.dumps([body])
            case 2:
                text = json.dumps({**VALID[path], "model": "nobody"})
            case 3:
                text = json.dumps(VALID[path])[:-1] + f', "{rng.choice(fields[path])}": NaN}}'
            case _:
                text = json.dumps(body)
        answer = http.post(path, content=text, headers={"content-type": "application/json"})
        if answer.status_code == 200:
            continue  # a value that the field does take
        refused += 1
        assert 400 <= answer.status_code < 500, (path, text, answer.text)
        assert answer.json()["error"]["message"]
    answer = http.post("/v1/chat/completions", json=CHAT)
    assert answer.json()["choices"][0]["message"]["content"] == golden()


@pytest.mark.parametrize("length", [-2, -1, 0, 1, 2])
def test_an_answer_ends_where_the_context_does(http: httpx.Client, length: int) -> None:
    """Prompts of as many tokens more than the context has; answers of as many as are asked for, or fit."""
    context = serving.CONFIG.context
    prompt, room = [5] * (context + length), -length
    for asked in (-2, 0, 1, max(room, 1), room + 1, 2**31 - 1, 2**31):
        body = {"model": "tiny", "prompt": prompt, "max_tokens": asked, "temperature": 0}
        answer = http.post("/v1/completions", json=body)
        if length >= 0 or not 1 <= asked < 2**31:
            assert answer.status_code == 400, (length, asked)
            error = answer.json()["error"]["message"]
            assert f"{context + length} tokens" in error or "max_tokens" in error
        else:
            expected = min(asked, room)
            assert answer.json()["usage"]["completion_tokens"] == expected, (length, asked)
            assert answer.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_page_can_ask_only_with_the_type_of_json(http: httpx.Client, kind: str | None) -> None:
    """What is no page, such as `curl -d`, may leave the type out."""
    headers = {} if kind is None else {"content-type": kind}
    for browser, status in (
        ({}, 200),
        ({"origin": "http://evil.example"}, 415),
        ({"Origin": "null"}, 415),
        ({"sec-fetch-site": "cross-site"}, 415),
        ({"sec-fetch-mode": "no-cors"}, 415),
        ({"referer": "http://evil.example/page"}, 415),
    ):
        for path in ("/v1/chat/completions", "/api/show"):
            asked = http.post(path, content=json.dumps(VALID[path]), headers={**headers, **browser})
            assert asked.status_code == status, browser


def test_what_is_too_large_too_deep_or_no_json(http: httpx.Client) -> None:
    def status(content: str | bytes, kind: str = "application/json") -> int:
        answer = http.post("/v1/chat/completions", content=content, headers={"content-type": kind})
        assert answer.json()["error"]["message"]
        return answer.status_code

    assert status(json.dumps({**CHAT, "user": "x" * 2**16})) == 413
    assert status('{"a":' * 1000 + "1" + "}" * 1000) == 400
    assert status(b"\xff\xfe") == 400
    assert status('{"model": "tiny", "model": "tiny"}') == 400
    assert (
        http.post("/v1/chat/completions", json={**CHAT, "messages": serving.messages(5) * 30}).status_code
        == 400
    )
    unfit = http.get("/v1/chat/completions")
    assert unfit.status_code == 405
    assert unfit.json()["error"]["message"].endswith(": this path takes POST")
    for theirs, ours in (("n_predict", "max_tokens"), ("repeat_penalty", "repetition_penalty")):
        told = http.post("/v1/chat/completions", json={**CHAT, theirs: 1}).json()["error"]
        assert (told["param"], told["message"].endswith(f"mean {ours}?")) == (theirs, True)
    told = http.post("/v1/embeddings", json={"input": "x", "n_predict": 1}).json()["error"]["message"]
    assert told.endswith(": remove this field"), "it has no field for lengths"
    assert http.get("/nowhere").json()["error"]["type"] == "invalid_request_error"
