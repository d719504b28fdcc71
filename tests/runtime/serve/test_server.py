"""The server, over HTTP and by the `openai` package: answers are the model's, and nothing stays behind."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import httpx
import jsonschema
import numpy as np
import openai
import pydantic
import pytest
from helpers import serving, tiny_models
from helpers.task_models import tiny_reader
from tfm.refimpl.config import Classify, MaskedLM, Pool
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ConfigError
from tfm.runtime.serve.app import ROUTES
from tfm.runtime.serve.limits import Limits
from tfm.runtime.serve.models import Server

MODEL = serving.model()
MODELS = {
    "tiny": MODEL,
    "pool": tiny_reader(Pool()),
    "labels": tiny_reader(Classify(2), ("no", "yes")),
    "relevance": tiny_reader(Classify(1), ("relevant",)),
}
CHAT = {"model": "tiny", "messages": serving.messages(3), "max_tokens": 9, "seed": 4, "temperature": 1.2}
OPTIONS: dict[str, Any] = {"max_new_tokens": 9, "seed": 4, "temperature": 1.2}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Server]]:
    with serving.running(MODELS, limits=Limits(body=2**16)) as running:
        yield running


@pytest.fixture(scope="module")
def http(served: tuple[str, Server]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[0], trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def client(served: tuple[str, Server]) -> Iterator[openai.OpenAI]:
    with httpx.Client(trust_env=False) as http:
        yield openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", http_client=http, max_retries=0)


def golden() -> str:
    return str(MODEL.chat(serving.messages(3), **OPTIONS))


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream; the last one says that it is done."""
    lines = [line for line in response.iter_lines() if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_chat_is_the_models(client: openai.OpenAI) -> None:
    for i in range(6):
        answer = client.chat.completions.create(**{**CHAT, "messages": serving.messages(i)})
        expected = MODEL.chat(serving.messages(i), **OPTIONS)
        assert answer.choices[0].message.content == str(expected)
        assert answer.choices[0].finish_reason == expected.finish_reason
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(expected.prompt)
        assert answer.usage.completion_tokens == len(expected.tokens)


def test_a_stream_joins_to_the_whole(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == golden()
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 9)
    assert len({c.id for c in chunks}) == 1
    plain = list(client.chat.completions.create(**CHAT, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in plain)


def test_async_requests_at_the_same_time(served: tuple[str, Server]) -> None:
    async def run() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{served[0]}/v1", api_key="none", http_client=httpx.AsyncClient(trust_env=False)
        ) as client:

            async def one(i: int) -> str:
                body = {**CHAT, "messages": serving.messages(i)}
                if i % 2:
                    answer = await client.chat.completions.create(**body)
                    return answer.choices[0].message.content or ""
                stream = await client.chat.completions.create(**body, stream=True)
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            return await asyncio.gather(*map(one, range(12)))

    assert asyncio.run(run()) == [str(MODEL.chat(serving.messages(i), **OPTIONS)) for i in range(12)]


def test_several_answers(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**CHAT, n=3)
    texts = [choice.message.content for choice in whole.choices]
    same = MODEL.generate_many([serving.messages(3)[0]["content"]] * 3, **OPTIONS)
    assert texts == [one.text for one in same]
    parts = ["", "", ""]
    for chunk in client.chat.completions.create(**CHAT, n=3, stream=True):
        parts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert parts == texts


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(client: openai.OpenAI, stream: bool) -> None:
    expected = MODEL.chat(serving.messages(3), **OPTIONS, logprobs=2)
    str(expected)
    assert expected.logprobs is not None
    made = client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2, stream=stream)
    choices = [c.choices[0] for c in made] if stream else made.choices
    listed = [choice.logprobs.content or [] for choice in choices if choice.logprobs]
    content = [one for tokens in listed for one in tokens]
    assert [one.logprob for one in content] == [one.logprob for one in expected.logprobs]
    tops = [[top.logprob for top in one.top_logprobs] for one in content]
    assert tops == [[p for _, p in one.top] for one in expected.logprobs]
    joined = b"".join(bytes(one.bytes) for one in content if one.bytes is not None)
    assert joined.decode() in str(expected) or "\ufffd" in str(expected)


def test_a_completion_continues_texts_and_ids(client: openai.OpenAI) -> None:
    arguments: Any = {"model": "tiny", "max_tokens": 7, "temperature": 0, "logprobs": 1}
    made = client.completions.create(prompt=["the cat", "the dog"], **arguments)
    expected = [MODEL.generate(t, raw=True, greedy=True, max_new_tokens=7) for t in ("the cat", "the dog")]
    assert [choice.text for choice in made.choices] == [str(one) for one in expected]
    assert made.choices[1].logprobs is not None
    assert len(made.choices[1].logprobs.tokens) == 7
    ids = list(expected[0].prompt)
    assert client.completions.create(prompt=ids, **arguments).choices[0].text == str(expected[0])
    stream = client.completions.create(prompt="the cat", **arguments, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == str(expected[0])
    default = client.completions.create(model="tiny", prompt="the cat", temperature=0)
    assert default.usage is not None
    assert default.usage.completion_tokens == 16


def test_the_requests_temperature_wins_over_the_models_and_the_models_over_ours() -> None:
    asks = serving.model(defaults={"temperature": 3.0, "top_k": 50})
    with serving.running({"asks": asks, "tiny": MODEL}) as (url, _), httpx.Client(trust_env=False) as http:

        def text(name: str, **body: Any) -> str:
            request = {**CHAT, "model": name, "seed": 4, **body}
            if request["temperature"] is None:
                del request["temperature"]
            answer = http.post(f"{url}/v1/chat/completions", json=request)
            return answer.json()["choices"][0]["message"]["content"]

        for temperature in (0.5, 0, None):
            options: dict[str, Any] = {"max_new_tokens": 9, "seed": 4}
            if temperature is not None:
                options |= {"greedy": True} if temperature == 0 else {"temperature": temperature}
            for name, model in (("asks", asks), ("tiny", MODEL)):
                expected = str(model.chat(serving.messages(3), **options))
                assert text(name, temperature=temperature) == expected, (name, temperature)


def test_a_request_without_a_seed_gets_another_answer_each_time(http: httpx.Client) -> None:
    body = {**CHAT, "temperature": 2.0}
    del body["seed"]
    answers = {http.post("/v1/chat/completions", json=body).text.partition('"choices"')[2] for _ in range(4)}
    assert len(answers) > 1


def test_embeddings(client: openai.OpenAI) -> None:
    texts = ["the cat", "a dog sat on the mat", "the cat"]
    for form in ("float", "base64"):
        made = client.embeddings.create(model="pool", input=texts, encoding_format=form)
        vectors = [one.embedding for one in made.data]
        if form == "base64":
            vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
        assert np.array_equal(np.array(vectors, np.float32), MODELS["pool"].embed(texts))
    assert made.usage.prompt_tokens > len(texts)


def test_labels_and_relevance(http: httpx.Client) -> None:
    texts = ["the cat", "a dog sat"]
    made = http.post("/v1/classify", json={"model": "labels", "input": texts}).json()
    expected = MODELS["labels"].classify(texts)
    assert [[tuple(one.values()) for one in row["labels"]] for row in made["data"]] == expected
    body = {"model": "relevance", "query": "cat", "documents": texts, "return_documents": True}
    ranked = http.post("/v1/rerank", json=body).json()["results"]
    scores = [one[0].score for one in MODELS["relevance"].classify([("cat", text) for text in texts])]
    assert [one["relevance_score"] for one in ranked] == sorted(scores, reverse=True)
    assert [texts[one["index"]] for one in ranked] == [one["document"]["text"] for one in ranked]
    assert len(http.post("/v1/rerank", json={**body, "top_n": 1}).json()["results"]) == 1


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


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": 0}, "top_k"),
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
    ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
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


def test_harmless_fields_pass(http: httpx.Client) -> None:
    harmless = {
        "user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "n": 1,
        "response_format": {"type": "text"}, "logit_bias": None, "stop": None, "stream": False,
        "max_completion_tokens": 9,
    }  # fmt: skip
    answer = http.post("/v1/chat/completions", json={**CHAT, **harmless})
    assert answer.json()["choices"][0]["message"]["content"] == golden()


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
    valid: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {**CHAT, "max_tokens": 1},
        "/v1/completions": {"model": "tiny", "prompt": "a", "max_tokens": 2},
        "/v1/embeddings": {"model": "pool", "input": "a"},
        "/v1/rerank": {"model": "relevance", "query": "a", "documents": ["b"]},
        "/v1/classify": {"model": "labels", "input": "a"},
    }
    refused = 0
    while refused < 300:
        path = rng.choice(list(fields))
        body: Any = {**valid[path], rng.choice(fields[path]): rng.choice(BAD)}
        match rng.randrange(10):
            case 0:
                text = json.dumps(body)[: rng.randrange(1, 20)]
            case 1:
                text = json.dumps([body])
            case 2:
                text = json.dumps({**valid[path], "model": "nobody"})
            case 3:
                text = json.dumps(valid[path])[:-1] + f', "{rng.choice(fields[path])}": NaN}}'
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


def test_what_is_too_large_too_deep_or_no_json(http: httpx.Client) -> None:
    def status(content: str | bytes, kind: str = "application/json") -> int:
        answer = http.post("/v1/chat/completions", content=content, headers={"content-type": kind})
        assert answer.json()["error"]["message"]
        return answer.status_code

    assert status(json.dumps({**CHAT, "user": "x" * 2**16})) == 413
    assert status('{"a":' * 1000 + "1" + "}" * 1000) == 400
    assert status(b"\xff\xfe") == 400
    assert status('{"model": "tiny", "model": "tiny"}') == 400
    assert status(json.dumps(CHAT), "text/plain") == 415  # what a page of another origin may send
    assert (
        http.post("/v1/chat/completions", json={**CHAT, "messages": serving.messages(5) * 30}).status_code
        == 400
    )
    assert http.get("/v1/chat/completions").status_code == 405
    assert http.get("/nowhere").json()["error"]["type"] == "invalid_request_error"


def test_a_slow_body_ends(served: tuple[str, Server]) -> None:
    with serving.running({"tiny": MODEL}, limits=Limits(read_s=0.05)) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as slow:
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_ends(stream: bool) -> None:
    gate = serving.Gate()
    with (
        serving.running({"tiny": serving.model(gate)}, limits=Limits(request_s=0)) as (url, server),
        httpx.Client(trust_env=False) as http,
    ):
        answer = http.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": stream})
        assert answer.status_code == (200 if stream else 504)
        assert "the answer took more than 0 s" in answer.text
        gate.open()
        serving.idle(server)


def test_a_full_queue_is_429_with_when_to_try_again() -> None:
    gate = serving.Gate()
    with (
        serving.running({"tiny": serving.model(gate)}, slots=1, queue=2) as (url, server),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
    ):
        worker = server.models["tiny"].model.worker
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(http.post, "/v1/chat/completions", json={**CHAT, "n": 3})
            serving.wait_until(lambda: worker.running + worker.waiting == 3)
            answer = http.post("/v1/chat/completions", json=CHAT)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert answer.json()["error"]["type"] == "rate_limit_error"
            assert worker.running + worker.waiting == 3
            never = http.post("/v1/chat/completions", json={**CHAT, "n": 4})
            assert (never.status_code, "takes 3 answers at a time" in never.text) == (400, True)
            gate.open()
            assert first.result().status_code == 200


def test_100_clients_that_leave_free_their_slots() -> None:
    """In the queue, in their prompt and in their answer, streamed or not; an answer would take minutes. The
    next one is golden."""
    config = tiny_models.llama(vocabulary=serving.CONFIG.embedding.vocabulary, context=2**16, layers=1)
    endless = serving.model(NumpyEngine(config, tiny_models.weights(config, seed=3)))
    expected = str(endless.chat(serving.messages(3), **OPTIONS))
    rng = random.Random(5)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with (
        serving.running({"tiny": endless}, slots=4, queue=100) as (url, server),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
    ):
        worker = server.models["tiny"].model.worker
        host, port = url.removeprefix("http://").split(":")
        for _ in range(5):
            clients, texts = [], 0
            for i in range(20):
                n = rng.choice([1, 3])
                prompt = [{"role": "user", "content": "the cat " * rng.choice([1, 400])}]
                options = {"max_tokens": 60000, "stream": i % 2 == 0, "n": n, "messages": prompt}
                body = json.dumps({**CHAT, **options})
                leaving = socket.create_connection((host, int(port)), timeout=30)
                leaving.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
                clients.append(leaving)
                texts += n
            serving.wait_until(lambda count=texts: worker.running + worker.waiting == count)
            for leaving in clients:
                if rng.random() < 0.3:  # a reset instead of an end
                    leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                leaving.close()
            serving.idle(server)
        answer = http.post("/v1/chat/completions", json=CHAT)
        assert answer.json()["choices"][0]["message"]["content"] == expected
        assert '{code="499",path="/v1/chat/completions"} 50.0' in http.get("/metrics").text


def test_a_key_is_asked_for_everywhere_but_for_health_and_the_page(served: tuple[str, Server]) -> None:
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
        assert http.get("/nowhere").status_code == 401
        for key in ("first", "second"):
            assert http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200


def test_another_host_than_this_machine_is_refused(http: httpx.Client) -> None:
    for host, status in (
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:1", 200),
        ("evil.example", 400),
    ):
        assert http.get("/v1/models", headers={"host": host}).status_code == status


def test_a_model_for_another_task_is_refused(http: httpx.Client) -> None:
    for path, body in (
        ("/v1/chat/completions", {**CHAT, "model": "pool"}),
        ("/v1/embeddings", {"model": "tiny", "input": "a"}),
        ("/v1/classify", {"model": "tiny", "input": "a"}),
        ("/v1/rerank", {"model": "labels", "query": "a", "documents": ["b"]}),
    ):
        assert http.post(path, json=body).status_code == 400, path
    with pytest.raises(ConfigError, match="fills can't be served, its head is for fill"):
        Server({"fills": tiny_reader(MaskedLM(tied=True))})


def test_a_stream_has_its_tokens_by_and_by() -> None:
    """The first event comes before the last token is computed."""
    gate = serving.Gate()
    with (
        serving.running({"tiny": serving.model(gate)}) as (url, _),
        httpx.Client(trust_env=False, timeout=60) as http,
    ):
        body = {**CHAT, "stream": True, "temperature": 0}
        with http.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            assert '"role": "assistant"' in next(lines)
            gate.step_through()
            gate.step_through()
            while '"content"' not in (line := next(lines)):
                pass
            assert '"finish_reason": null' in line
            gate.open()
            assert list(lines)[-2] == "data: [DONE]"


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"tags": {"type": "array", "items": {"enum": ["cat", "dog"]}, "maxItems": 2}},
    "required": ["tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("form", ["json_schema", "json_object"])
def test_an_answer_of_a_schema(form: str) -> None:
    """Streamed and whole, it is the model's own; one that is cut says so."""
    model = serving.model(eos=(serving.TOKENIZER.token_to_id("<|im_end|>"),))
    schema = SCHEMA if form == "json_schema" else {"type": "object"}
    named = {"json_schema": {"name": "tags", "schema": SCHEMA, "strict": True}} if schema is SCHEMA else {}
    body = {**CHAT, "max_tokens": 70, "response_format": {"type": form, **named}}
    with serving.running({"tiny": model}) as (url, _), httpx.Client(trust_env=False, timeout=60) as http:
        reasons = []
        for seed in range(8):
            whole = http.post(f"{url}/v1/chat/completions", json={**body, "seed": seed}).json()["choices"][0]
            text, reason = whole["message"]["content"], whole["finish_reason"]
            expected = model.chat(
                serving.messages(3), temperature=1.2, seed=seed, max_new_tokens=70, json_schema=schema
            )
            assert (text, reason) == (str(expected), expected.finish_reason)
            streamed = http.post(f"{url}/v1/chat/completions", json={**body, "seed": seed, "stream": True})
            deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in events(streamed)]
            assert "".join(deltas) == text
            reasons.append(reason)
            if reason == "stop":
                jsonschema.validate(json.loads(text), schema)
        assert "stop" in reasons


def test_a_schema_that_cannot_be_followed_is_refused(http: httpx.Client) -> None:
    def error(schema: Any, **more: Any) -> str:
        named = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        answer = http.post("/v1/chat/completions", json={**CHAT, "response_format": named, **more})
        assert answer.status_code == 400
        return answer.json()["error"]["message"]

    ends = serving.model(eos=(1,))
    with serving.running({"tiny": ends}) as (url, _), httpx.Client(base_url=url, trust_env=False) as http:
        assert 'Unimplemented keys: ["not"]' in error({"not": {}})
        assert "leave out stop" in error({}, stop="a")
        assert "schema" in error("text")


def test_an_answer_parsed_by_the_client() -> None:
    class Tags(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        tags: list[Literal["cat", "dog"]]
        count: Annotated[int, pydantic.Field(ge=0, le=99)]

    model = serving.model(eos=(serving.TOKENIZER.token_to_id("<|im_end|>"),))
    with serving.running({"tiny": model}) as (url, _), httpx.Client(trust_env=False, timeout=60) as http:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", http_client=http, max_retries=0)
        parsed = []
        for seed in range(8):
            arguments: Any = {**CHAT, "max_tokens": 80, "seed": seed}
            try:
                answer = client.chat.completions.parse(**arguments, response_format=Tags)
            except openai.LengthFinishReasonError:
                continue
            parsed.append(answer.choices[0].message.parsed)
        assert parsed
        assert all(isinstance(one, Tags) for one in parsed)
