"""What a server says of itself, and whom it answers."""

from __future__ import annotations

import httpx
from helpers import serving
from helpers.refused import refused
from helpers.served import CHAT, MODEL, MODELS
from helpers.task_models import tiny_reader
from tfm.refimpl.config import MaskedLM
from tfm.refimpl.errors import ConfigError
from tfm.runtime.serve.app import ROUTES
from tfm.runtime.serve.models import Server


def test_what_the_server_says_of_itself(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    listed = http.get("/v1/models").json()["data"]
    assert [one["id"] for one in listed] == list(MODELS)
    assert http.get("/v1/models/tiny").json() == listed[0]
    assert http.get("/v1/models/none").status_code == 404
    assert http.get("/certificate").status_code == 404  # the NumPy engine runs no bundle
    http.post("/v1/chat/completions", json=CHAT)
    figures = http.get("/metrics").text
    assert 'tfm_requests_total{code="200",path="/v1/chat/completions"}' in figures
    assert 'tfm_running{model="tiny"} 0.0' in figures
    assert 'tfm_generated_tokens_total{model="tiny"}' in figures


def test_a_key_is_asked_for_everywhere_but_for_health_and_the_page() -> None:
    with (
        serving.running({"tiny": MODEL}, keys=("first", "second")) as (url, _),
        httpx.Client(base_url=url, trust_env=False) as http,
    ):
        for route in ROUTES:
            method = "POST" if "POST" in route.methods else "GET"
            path = route.path.replace("{name:path}", "tiny")
            for headers in ({}, {"authorization": "Bearer third"}, {"authorization": "Basic first"}):
                answer = http.request(method, path, headers=headers)
                assert answer.status_code == (200 if path in ("/", "/health") else 401), path
        # A URL of another path, as Starlette reads it, must not stand for the path that is routed.
        for path in ("/nowhere", "/hea%0Alth"):
            assert http.get(path).status_code == 401
        for host in ("127.0.0.1:80/health?", "127.0.0.1/health#", "localhost:1/?"):
            assert http.get("/v1/models", headers={"host": host}).status_code in (400, 401), host
        for key in ("first", "second"):
            assert http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200


def test_a_key_shares_what_was_read_with_itself_alone() -> None:
    with (
        serving.running({"tiny": serving.model()}, keys=("first", "second"), chunk=4) as (url, _),
        httpx.Client(base_url=url, trust_env=False) as http,
    ):
        texts = set()
        for key, tokens in (("first", 0), ("first", 12), ("second", 12), ("second", 24)):
            body = {"model": "tiny", "prompt": [*range(14)], "temperature": 0}
            answer = http.post("/v1/completions", json=body, headers={"authorization": f"Bearer {key}"})
            texts.add(answer.json()["choices"][0]["text"])
            figures = http.get("/metrics", headers={"authorization": "Bearer first"}).text
            assert f'tfm_prefix_tokens_total{{model="tiny"}} {tokens}.0' in figures
            assert 'tfm_prefix_bytes{model="tiny"}' in figures
        assert len(texts) == 1


def test_another_host_than_this_machine_is_refused(http: httpx.Client) -> None:
    for host, status in (
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:1", 200),
        ("evil.example", 400),
    ):
        assert http.get("/v1/models", headers={"host": host}).status_code == status
    error = http.get("/v1/models", headers={"host": "evil.example"}).json()["error"]
    assert error["type"] == "invalid_request_error"
    assert all(part in error["message"] for part in ("localhost", "'evil.example'"))
    assert "evil.example" in http.get("/api/tags", headers={"host": "evil.example"}).json()["error"]


def test_a_model_for_another_task_is_refused(http: httpx.Client) -> None:
    for path, body, reason in (
        (
            "/v1/chat/completions",
            {**CHAT, "model": "pool"},
            "pool can't generate texts: use /v1/embeddings",
        ),
        ("/v1/completions", {"model": "pool", "prompt": [1], "echo": True}, "use /v1/embeddings"),
        ("/v1/embeddings", {"model": "tiny", "input": "a"}, "use /v1/chat/completions"),
        ("/v1/classify", {"model": "tiny", "input": "a"}, "use /v1/chat/completions"),
        ("/v1/rerank", {"model": "pool", "query": "a", "documents": ["a"]}, "pool can't rerank"),
        ("/v1/rerank", {"model": "labels", "query": "a", "documents": ["b"]}, "label"),
    ):
        answer = http.post(path, json=body)
        assert answer.status_code == 400, path
        assert reason in answer.json()["error"]["message"]
    with refused(ConfigError, "fills", "fill:"):
        Server({"fills": lambda: tiny_reader(MaskedLM(tied=True))})


def test_pages_and_names_that_are_allowed() -> None:
    here, there = "http://localhost:3000", "http://evil.example"
    with (
        serving.running({"tiny": MODEL}, keys=("first",), names=("box",), origins=(here,)) as (url, _),
        httpx.Client(base_url=url, trust_env=False) as http,
    ):
        assert http.get("/health", headers={"host": "box:80"}).status_code == 200
        assert http.get("/health", headers={"host": "evil.example"}).status_code == 400
        asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        for origin, allowed in ((here, here), (there, None)):
            told = http.options("/v1/chat/completions", headers={"origin": origin, **asks}).headers
            assert told.get("access-control-allow-origin") == allowed
            told = http.get("/v1/models", headers={"origin": origin, "authorization": "Bearer first"}).headers
            assert told.get("access-control-allow-origin") == allowed


def test_usage_has_what_an_earlier_request_had_read() -> None:
    model = serving.model(template=serving.TOOLS)
    with (
        serving.running({"tiny": model}, chunk=4) as (url, _),
        httpx.Client(base_url=f"{url}/v1", trust_env=False, timeout=60) as http,
    ):
        for cached in (False, True):
            body = {"model": "tiny", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 1}
            usage = http.post("/chat/completions", json=body).json()["usage"]
            asked = usage["prompt_tokens"]
            assert (usage["prompt_tokens_details"]["cached_tokens"] == (asked - 1) // 4 * 4) == cached
            if cached:
                usage = http.post("/messages", json=body).json()["usage"]
                assert usage["cache_read_input_tokens"] + usage["input_tokens"] == asked
                assert usage["cache_read_input_tokens"] == (asked - 1) // 4 * 4
                unnamed = {"input": "the cat", "max_output_tokens": 1}  # the only model
                told = http.post("/responses", json=unnamed).json()
                assert told["model"] == "tiny"
                usage = told["usage"]
                assert usage["input_tokens_details"]["cached_tokens"] == (asked - 1) // 4 * 4


def test_a_prompt_that_is_too_long_has_a_code(http: httpx.Client) -> None:
    long = {"model": "tiny", "messages": [{"role": "user", "content": "the cat " * 200}]}
    refused = http.post("/v1/chat/completions", json=long)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
