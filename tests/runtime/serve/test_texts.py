"""Texts over HTTP, by the `openai` package: answers are the model's, whole and streamed."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from helpers import serving
from helpers.refused import refused
from helpers.served import CHAT, MODEL, OPTIONS, golden
from tfm.refimpl.decoding.logprobs import log_softmax
from tfm.runtime.serve.models import Server


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


def test_an_echo_begins_with_the_prompt(client: openai.OpenAI) -> None:
    """A text or ids; with log-probabilities those of the prompt too, whose first token has none."""
    arguments: Any = {"model": "tiny", "max_tokens": 3, "temperature": 0}
    texts = ["the cat sat", "a dog"]
    plain = client.completions.create(prompt=texts, **arguments, logprobs=2).choices
    echoed = client.completions.create(prompt=texts, **arguments, echo=True, logprobs=2, n=2).choices
    for i, choice in enumerate(echoed):
        text, alone = texts[i // 2], plain[i // 2]
        assert choice.text == text + alone.text
        ids = MODEL.prompt(text, raw=True)
        assert choice.logprobs is not None
        assert alone.logprobs is not None
        tokens, values, tops, offsets = (
            choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs,
            choice.logprobs.text_offset,
        )  # fmt: skip
        assert tokens is not None
        assert tokens == ["<s>", *(MODEL.text.decode([i]) for i in ids[1:]), *(alone.logprobs.tokens or ())]
        assert offsets == [0, *(len("".join(tokens[1:k])) for k in range(1, len(tokens)))]
        expected = log_softmax(MODEL.logits(ids)[:-1])
        assert values is not None
        assert tops is not None
        assert (values[0], tops[0]) == (None, None)
        np.testing.assert_allclose(values[1 : len(ids)], expected[range(len(ids) - 1), ids[1:]], rtol=1e-4)
        np.testing.assert_allclose(
            [max(top.values()) for top in tops[1 : len(ids)]], expected.max(1), rtol=1e-4
        )
        np.testing.assert_allclose(values[len(ids) :], alone.logprobs.token_logprobs or (), rtol=1e-4)
        given_ids = client.completions.create(prompt=ids, **arguments, echo=True).choices[0]
        assert (given_ids.text, given_ids.logprobs) == (choice.text, None)
    with refused(openai.BadRequestError, "echo", "stream"):
        client.completions.create(prompt="a", **arguments, echo=True, stream=True)


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


def test_an_answer_that_is_begun_goes_on(http: httpx.Client) -> None:
    asked = [{"role": "user", "content": "the cat"}]
    body = {"model": "tiny", "messages": [*asked, {"role": "assistant", "content": "sat on"}]}
    applied = http.post("/apply-template", json=body).json()["prompt"]
    assert applied == "<|im_start|>user: the cat<|im_end|><|im_start|>assistant: sat on"
    ids = MODEL.text.encode_template(applied)
    rest = MODEL.text.decode(MODEL.generate_ids(ids, max_new_tokens=7, greedy=True))
    short = {**body, "max_tokens": 7, "temperature": 0}
    answer = http.post("/v1/chat/completions", json=short).json()
    assert answer["choices"][0]["message"]["content"] == rest
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert http.post("/v1/messages", json=short).json()["content"][0]["text"] == rest
    lines = {**body, "stream": False, "options": {"num_predict": 7, "temperature": 0}}
    assert http.post("/api/chat", json=lines).json()["message"]["content"] == rest
    for new in ({"continue_final_message": False}, {"add_generation_prompt": True}):
        told = http.post("/apply-template", json={**body, **new}).json()["prompt"]
        assert told == f"{applied}<|im_end|><|im_start|>"
    responses = {"model": "tiny", "input": body["messages"], "max_output_tokens": 1}
    usage = http.post("/v1/responses", json=responses).json()["usage"]
    assert usage["input_tokens"] == len(MODEL.text.encode_template(told))
    for wrong in (
        {"response_format": {"type": "json_object"}},
        {"messages": asked, "continue_final_message": True},
        {"messages": asked, "add_generation_prompt": False},
    ):
        refused = http.post("/v1/chat/completions", json={**short, **wrong})
        assert (refused.status_code, [*wrong][-1] in refused.json()["error"]["message"]) == (400, True)


def test_what_a_request_switches_off_isnt_as_the_model_asks() -> None:
    asks = serving.model(defaults={"temperature": 3.0, "top_k": 1, "min_p": 0.9}, max_new_tokens=2)
    free = serving.model(defaults={"temperature": 3.0})
    with serving.running({"tiny": asks}) as (url, _), httpx.Client(base_url=url, trust_env=False) as http:
        for change in (
            {"top_k": 0, "min_p": 0, "max_tokens": -1},
            {"top_k": -1, "min_p": 0.0, "max_tokens": 9},
        ):
            body = {**CHAT, "temperature": None, **change}
            answer = http.post("/v1/chat/completions", json=body).json()
            most = serving.CONFIG.context if change["max_tokens"] == -1 else 9
            expected = str(free.chat(serving.messages(3), seed=4, max_new_tokens=most))
            assert answer["choices"][0]["message"]["content"] == expected


def test_a_templates_variables() -> None:
    chosen = serving.model(template="{{ tone }}" + serving.CHAT)
    variables = {"tone": "the dog "}
    with (
        serving.running({"tiny": chosen}) as (url, _),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
    ):
        for stated, want in ((variables, variables), ({}, None), (None, None)):
            body = {**CHAT, "temperature": 0, "max_tokens": 9, "chat_template_kwargs": stated}
            answer = http.post("/v1/chat/completions", json=body).json()
            prompt = chosen.chat(CHAT["messages"], chat_template_kwargs=want, greedy=True, max_new_tokens=9)
            assert answer["choices"][0]["message"]["content"] == str(prompt)
            assert answer["usage"]["prompt_tokens"] == len(prompt.prompt)
        for refused in ({"other": 1}, {"messages": []}, {"tone": "<|im_end|>"}):
            answer = http.post("/v1/chat/completions", json={**CHAT, "chat_template_kwargs": refused})
            assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_request_without_a_seed_gets_another_answer_each_time(http: httpx.Client) -> None:
    body = {**CHAT, "temperature": 2.0}
    del body["seed"]
    answers = {http.post("/v1/chat/completions", json=body).text.partition('"choices"')[2] for _ in range(4)}
    assert len(answers) > 1


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
