"""Models with an encoder and a decoder in the server: completions, of requests that wait together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from helpers import serving, tiny_models
from helpers.refused import refused
from helpers.served import events
from helpers.task_models import ModelFiles
from tfm.refimpl.checkpoint.generation_config import Generation
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import LimitError, NumericError
from tfm.runtime.serve import AsyncModel, QueueFullError
from tfm.runtime.serve.models import Server
from tfm.runtime.tasks import Model
from tfm.runtime.tasks.generate import prompt_of

SIZE = serving.TOKENIZER.get_vocab_size()
END = serving.TOKENIZER.token_to_id("<|im_end|>")
CONFIG = replace(tiny_models.encoder_decoder(layers=1, vocabulary=SIZE), context=64)
RULES = Generation(eos=(END,), start=END, prefix="say: ")


def both(rules: Generation = RULES, context: int = 64) -> Model:
    config = replace(CONFIG, context=context)
    engine = NumpyEngine(config, tiny_models.weights(config, seed=6))
    return Model(engine, ModelFiles(serving.TOKENIZER.to_str(), generation=rules))


MODEL = both()
TEXTS = ["the cat", "a dog sat on the mat", "and"]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[httpx.Client, Server]]:
    beams = replace(RULES, search={"beams": 3})
    with (
        serving.running({"tiny": MODEL, "beams": both(beams)}, slots=2) as (url, server),
        httpx.Client(base_url=f"{url}/v1", trust_env=False, timeout=60) as http,
    ):
        yield http, server


def ask(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post("/completions", json={"model": "tiny", "max_tokens": 9, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_answers_are_those_of_the_model(served: tuple[httpx.Client, Server]) -> None:
    """The prompt is what the encoder reads; more texts than slots, texts and ids, whole and streamed."""
    http, _ = served
    options: dict[str, Any] = {"temperature": 1.3, "seed": 4}
    made = ask(http, prompt=TEXTS, logprobs=1, **options)
    expected = MODEL.generate_many(TEXTS, raw=True, max_new_tokens=9, **options)
    assert [choice["text"] for choice in made["choices"]] == [one.text for one in expected]
    assert [choice["finish_reason"] for choice in made["choices"]] == [o.finish_reason for o in expected]
    read = [prompt_of(MODEL, text, raw=True).encoder_ids or [] for text in TEXTS]
    generated = sum(len(one.tokens) for one in expected)
    assert made["usage"]["prompt_tokens"] == sum(map(len, read))
    assert made["usage"]["completion_tokens"] == generated
    assert ask(http, prompt=read, **options)["choices"][1]["text"] == expected[1].text
    body = {"model": "tiny", "prompt": TEXTS, "stream": True, "max_tokens": 9, **options}
    parts = ["", "", ""]
    for chunk in events(http.post("/completions", json=body)):
        parts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert parts == [one.text for one in expected]
    stopped = ask(http, prompt="the cat", stop=expected[0].text[1], **options)["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == (expected[0].text[:1], "stop")


def test_the_models_own_beams(served: tuple[httpx.Client, Server]) -> None:
    http, _ = served
    made = ask(http, model="beams", prompt=TEXTS, n=2)["choices"]
    texts = [MODEL.generate(text, raw=True, beams=3, max_new_tokens=9) for text in TEXTS for _ in range(2)]
    assert [choice["text"] for choice in made] == [str(one) for one in texts]
    assert [choice["finish_reason"] for choice in made] == [one.finish_reason for one in texts]
    greedy = ask(http, model="beams", prompt="the cat", temperature=0)["choices"][0]["text"]
    assert greedy == str(MODEL.generate("the cat", raw=True, greedy=True, max_new_tokens=9))


def test_what_is_refused(served: tuple[httpx.Client, Server]) -> None:
    http, server = served
    completion = {"model": "tiny", "prompt": "a"}
    for path, body, reason in (
        (
            "/chat/completions",
            {"model": "tiny", "messages": serving.messages(0)},
            "send the text to /v1/completions",
        ),
        ("/completions", {**completion, "echo": True}, "remove `echo`"),
        ("/completions", {**completion, "prompt": "the cat " * 40}, "must have 1 to 64 tokens"),
        ("/completions", {**completion, "prompt": [SIZE]}, "token ids must be"),
    ):
        answer = http.post(path, json=body)
        assert answer.status_code == 400
        assert reason in answer.json()["error"]["message"]
    serving.idle(server)


@pytest.mark.parametrize("beams", [None, 2])
def test_a_request_that_is_cancelled_makes_room_for_the_next(beams: int | None) -> None:
    """While it waits, while it is generated, and of one text among others."""
    model = both(context=4096)

    async def run() -> None:
        async with AsyncModel(model, slots=2) as served:
            endless = model.options(max_new_tokens=4000, beams=beams, stop_on_eos=False)
            short = model.options(max_new_tokens=5, greedy=True)
            prompts = [prompt_of(model, text, raw=True) for text in TEXTS]
            first = served.start_all(prompts, endless)
            second = served.start_all(prompts, endless)
            third = served.start_all(prompts[:1], short)
            while not served.worker.running:
                await asyncio.sleep(0.001)
            for stream in (*first[1:], *second):
                stream.cancel()
            assert served.worker.waiting == 1
            first[0].cancel()
            expected = str(model.generate(TEXTS[0], raw=True, max_new_tokens=5, greedy=True))
            assert (await third[0].read()).text == expected
            several = served.start_all(prompts, short)
            several[1].cancel()
            others = await asyncio.gather(several[0].read(), several[2].read())
            assert others[0].text == expected
            with refused(LimitError, "draft"):
                served.start_all(prompts, model.options(draft=object()))  # pyright: ignore[reportArgumentType]

    asyncio.run(run())


def test_a_text_that_is_cancelled_leaves_the_others_steps() -> None:
    model, rows = both(context=4096), [0]
    step = model.engine.step

    def counted(tokens: Any, *more: Any) -> Any:
        rows.append(len(tokens))
        return step(tokens, *more)

    model.engine.step = counted

    async def run() -> None:
        async with AsyncModel(model) as served:
            options = model.options(max_new_tokens=4000, stop_on_eos=False, greedy=True)
            streams = served.start_all([prompt_of(model, text, raw=True) for text in TEXTS], options)
            await asyncio.to_thread(serving.wait_until, lambda: rows[-1] == 3)
            streams[1].cancel()
            await asyncio.to_thread(serving.wait_until, lambda: rows[-1] == 2)
            streams[0].cancel()
            streams[2].cancel()
            await asyncio.to_thread(serving.wait_until, lambda: not served.worker.running)

    asyncio.run(run())


def test_requests_that_wait_for_the_first_are_answered_together() -> None:
    """And count as waiting, though there are free slots."""
    model, rows = both(), [0]
    step = model.engine.step
    wish: dict[str, Any] = {"max_new_tokens": 9, "stop_on_eos": False, "greedy": True}
    expected = [str(model.generate(text, raw=True, **wish)) for text in TEXTS]
    prompts, options = [prompt_of(model, text, raw=True) for text in TEXTS], model.options(**wish)
    gate = threading.Event()

    def counted(tokens: Any, *more: Any) -> Any:
        gate.wait(30)
        rows.append(len(tokens))
        return step(tokens, *more)

    model.engine.step = counted

    async def run() -> None:
        async with AsyncModel(model, slots=8, queue=2) as served:
            streams = served.start(prompts[0], options)
            await asyncio.to_thread(serving.wait_until, lambda: served.worker.running == 1)
            streams += [served.start(prompt, options)[0] for prompt in prompts[1:]]
            with pytest.raises(QueueFullError):
                served.start(prompts[0], options)
            gate.set()
            answers = await asyncio.gather(*streams)
            assert [answer.text for answer in answers] == expected

    asyncio.run(run())
    assert (rows.count(1), rows.count(2)) == (9, 9)


def test_an_error_of_the_engine_ends_its_request_alone() -> None:
    model = both()

    async def run() -> None:
        async with AsyncModel(model) as served:
            step, prompts = model.engine.step, [prompt_of(model, text, raw=True) for text in TEXTS]
            options = model.options(max_new_tokens=5, greedy=True)

            def broken(*_: Any, **__: Any) -> Any:
                raise NumericError("broken")

            model.engine.step = broken
            for stream in served.start_all(prompts, options):
                with refused(NumericError, "broken"):
                    await stream.read()
            model.engine.step = step
            answer = await served.start_all(prompts, options)[2].read()
            assert answer.text == str(model.generate(TEXTS[2], raw=True, max_new_tokens=5, greedy=True))

    asyncio.run(run())
