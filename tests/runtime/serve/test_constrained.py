"""Constrained answers over HTTP: streamed, whole, parsed by the client, refused."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import httpx
import jsonschema
import openai
import pydantic
import pytest
from helpers import serving
from helpers.hostile_languages import drawn
from helpers.refused import pattern
from helpers.served import CHAT, events
from tfm.runtime.text.constraints import Constraints
from tfm.runtime.text.language_process import Limits

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"tags": {"type": "array", "items": {"enum": ["cat", "dog"]}, "maxItems": 2}},
    "required": ["tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def ends() -> Iterator[httpx.Client]:
    """A client of a server whose model has a stop token."""
    with (
        serving.running({"tiny": serving.model(eos=(1,))}) as (url, _),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
    ):
        yield http


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


def test_a_schema_that_cannot_be_followed_is_refused(ends: httpx.Client) -> None:
    def error(schema: Any, **more: Any) -> str:
        named = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        answer = ends.post("/v1/chat/completions", json={**CHAT, "response_format": named, **more})
        assert answer.status_code == 400
        return answer.json()["error"]["message"]

    assert 'Unimplemented keys: ["not"]' in error({"not": {}})
    assert re.search(pattern("json_schema", "stop"), error({}, stop="a"))
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


def test_expressions_choices_and_grammars() -> None:
    """By the names of vLLM and llama.cpp, in chats and completions: the model's own texts."""
    model = serving.model(eos=(serving.TOKENIZER.token_to_id("<|im_end|>"),))
    grammar = 'root ::= item item?\nitem ::= "- " ("cat" | "dog") "\\n"'
    regex = r"(cat|dog)s?, [0-9]{2}"
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"structured_outputs": {"regex": regex}}, {"regex": regex}),
        ({"structured_outputs": {"grammar": grammar, "choice": None}}, {"grammar": grammar}),
        ({"grammar": grammar}, {"grammar": grammar}),
        ({"structured_outputs": {"json": SCHEMA}}, {"json_schema": SCHEMA}),
        ({"structured_outputs": {"choice": ["a.b", "[c]"]}}, {"regex": r"a\.b|\[c\]"}),
    ]
    with serving.running({"tiny": model}) as (url, _), httpx.Client(trust_env=False, timeout=60) as http:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", http_client=http, max_retries=0)
        for extra, options in cases:
            arguments: Any = {"model": "tiny", "max_tokens": 60, "seed": 5, "temperature": 1.2}
            chat = client.chat.completions.create(
                **arguments, messages=serving.messages(3), extra_body=extra
            ).choices[0]
            continued = client.completions.create(**arguments, prompt="the cat", extra_body=extra).choices[0]
            options |= {"max_new_tokens": 60, "seed": 5, "temperature": 1.2}
            expected = model.chat(serving.messages(3), **options)
            assert (chat.message.content, chat.finish_reason) == (str(expected), expected.finish_reason)
            assert continued.text == str(model.generate("the cat", raw=True, **options))


def test_hostile_languages_cost_a_request_each() -> None:
    """Others are answered meanwhile, those who leave are gone, and the server ends."""
    model = serving.model(eos=(1,))
    model.constraints = Constraints(model.text, [1], Limits(compile_s=0.2, step_s=0.2))
    rng = random.Random(3)
    with (
        serving.running({"tiny": model}) as (url, server),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
        ThreadPoolExecutor(16) as clients,
    ):

        def ask(leaves: bool) -> int | None:
            kind, text = drawn(rng)
            named = {"json": json.loads(text)} if kind == "json_schema" else {kind: text}
            body = {**CHAT, "structured_outputs": named}
            try:
                timeout = 0.2 if leaves else 60
                return httpx.post(
                    f"{url}/v1/chat/completions", json=body, trust_env=False, timeout=timeout
                ).status_code
            except httpx.TimeoutException:
                return None

        bombs = [clients.submit(ask, i % 2 == 0) for i in range(16)]
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert {bomb.result() for bomb in bombs} <= {None, 200, 400}
        held = http.post("/v1/chat/completions", json={**CHAT, "structured_outputs": {"regex": "(cat|dog)"}})
        assert held.json()["choices"][0]["message"]["content"] in ("cat", "dog")
        serving.idle(server)
        bombs = [clients.submit(ask, True) for _ in range(4)]


@pytest.mark.parametrize(
    ("change", "param", "reason"),
    [
        ({"structured_outputs": {"regex": "("}}, None, "regex can't be followed: unclosed group"),
        ({"grammar": "root ::= item"}, None, "grammar can't be followed"),
        ({"grammar": "a" * 2**15 + "a"}, None, "grammar may have at most 32768 characters"),
        ({"structured_outputs": {}}, "structured_outputs", "must have exactly one of"),
        (
            {"structured_outputs": {"regex": "a", "json": {}}},
            "structured_outputs",
            "must have exactly one of",
        ),
        ({"structured_outputs": {"choice": []}}, "structured_outputs", "choice"),
        ({"structured_outputs": {"backend": "x"}}, "structured_outputs", "unknown field"),
        ({"structured_outputs": {"regex": "a"}, "grammar": 'root ::= "a"'}, None, "can't be combined"),
        (
            {"grammar": 'root ::= "a"', "response_format": {"type": "json_object"}},
            None,
            "can't be combined",
        ),
        ({"grammar": 'root ::= "a"', "stop": "a"}, None, "don't set `stop`"),
    ],
)
def test_a_wrong_constraint_is_a_400(
    ends: httpx.Client, change: dict[str, Any], param: str | None, reason: str
) -> None:
    answer = ends.post("/v1/chat/completions", json={**CHAT, **change})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert reason in error["message"]
    assert error["param"] == param
