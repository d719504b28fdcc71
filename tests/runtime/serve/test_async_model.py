"""AsyncModel: requests at the same time get what Model gives each alone; none is lost, none stays."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import serving
from helpers.refused import refused
from helpers.task_models import chat_model, tiny_reader
from helpers.tolerances import equal
from tfm.refimpl.config import Classify, Pool
from tfm.refimpl.errors import ArgumentError, ConfigError, LimitError, NumericError, TfmError
from tfm.runtime.serve import AsyncModel, AsyncTextStream, QueueFullError
from tfm.runtime.tasks import Completion, Model, load
from tfm.runtime.tasks.generate import Prompt, prompt_of

OPTIONS: list[dict[str, Any]] = [
    {"greedy": True},
    {"temperature": 1.5, "seed": 3},
    {"top_p": 0.8, "seed": 9, "repetition_penalty": 1.3},
    {"min_p": 0.05, "seed": 4, "stop": ["e", "zzz"]},
    {"temperature": 2.0, "top_k": 9, "presence_penalty": 0.5, "seed": 5},
]


async def settled(served: AsyncModel) -> None:
    """Wait until nothing runs and nothing waits."""
    while served.worker.running or served.worker.waiting:
        await asyncio.sleep(0.001)


async def ask_all(model: Model, *, slots: int, chunk: int, count: int = 20) -> list[Any]:
    """Many chats at a time."""
    async with AsyncModel(model, slots=slots, queue=count, chunk=chunk) as served:

        async def one(i: int) -> Any:
            await asyncio.sleep(0.001 * (i % 5))
            stream = await served.chat(serving.messages(i), **arguments(i))
            parts = [text async for text in stream]
            assert "".join(parts) == stream.text
            return await stream.read()

        answers = await asyncio.gather(*map(one, range(count)))
        await settled(served)
        return answers


def arguments(i: int) -> dict[str, Any]:
    return {"max_new_tokens": 3 + i % 9, "logprobs": 2, **OPTIONS[i % len(OPTIONS)]}


def check_against_chat(model: Model, answers: list[Any], *, exactly: bool) -> None:
    for i, answer in enumerate(answers):
        expected = model.chat(serving.messages(i), **arguments(i))
        text = str(expected)
        assert (answer.text, answer.tokens, answer.finish_reason) == (
            text, expected.tokens, expected.finish_reason
        )  # fmt: skip
        if exactly:
            assert answer.logprobs == expected.logprobs


def test_a_stream_is_awaited_whole_and_parsed() -> None:
    async def ask() -> tuple[Completion, Completion, str]:
        async with AsyncModel(chat_model(ends=True)) as served:
            reply = await (await served.chat("hi", json_schema={"enum": [True, 22]}))
            again = await served.generate("hi", max_new_tokens=4, greedy=True)
            first = await anext(aiter(again))
            return reply, await again, first

    reply, again, first = asyncio.run(ask())
    assert reply.parsed in (True, 22)
    model = chat_model(ends=True)
    assert str(again) == str(model.chat("hi", max_new_tokens=4, greedy=True))
    assert str(again).startswith(first)
    with refused(ArgumentError, "json_schema"):
        _ = again.parsed


@pytest.mark.parametrize(("slots", "chunk"), [(1, 7), (3, 5), (8, 128)])
def test_answers_are_those_of_chat(slots: int, chunk: int) -> None:
    model = serving.model()
    check_against_chat(model, asyncio.run(ask_all(model, slots=slots, chunk=chunk)), exactly=False)


def test_the_parts_of_200_texts_join_to_the_whole() -> None:
    """Of tokens that are bytes: what isn't a character yet is held back, and nothing is lost or added."""
    model = serving.model()

    async def run() -> list[AsyncTextStream]:
        async with AsyncModel(model, queue=200) as served:
            options = model.options(temperature=3.0, seed=2, max_new_tokens=12)
            streams = served.start(prompt_of(model, "the cat"), options, count=200)

            async def joined(stream: AsyncTextStream) -> AsyncTextStream:
                parts = [text async for text in stream]
                assert "".join(parts) == stream.text
                return stream

            return await asyncio.gather(*map(joined, streams))

    texts = [(stream.text, model.text.decode(stream.tokens)) for stream in asyncio.run(run())]
    assert [streamed for streamed, _ in texts] == [whole for _, whole in texts]
    assert len(set(texts)) == 200
    assert any(not text.isascii() for text, _ in texts)


@pytest.mark.long
def test_answers_are_those_of_chat_on_onnx_runtime(tmp_path: Path) -> None:
    model = load(serving.bundle(tmp_path, "fp32"), threads=1)
    check_against_chat(model, asyncio.run(ask_all(model, slots=4, chunk=9)), exactly=False)


def test_answers_have_the_bits_of_chat_on_kernels(
    tmp_path: Path, kernels_on: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = serving.bundle(tmp_path, "int8")
    model = load(path, threads=1)
    assert model.engine.backend.startswith("kernels")
    check_against_chat(model, asyncio.run(ask_all(model, slots=4, chunk=9)), exactly=True)


def test_a_conversation_has_the_bits_of_one_that_is_read_anew(tmp_path: Path, kernels_on: Path) -> None:
    """On kernels: its turns begin with what the turns before had in the cache, answers too."""
    model = load(serving.bundle(tmp_path, "int8"), threads=1)
    options = model.options(temperature=1.2, seed=4, max_new_tokens=6, logprobs=3)

    async def turns(prefix_bytes: int) -> tuple[list[Any], int]:
        async with AsyncModel(model, slots=2, chunk=5, prefix_bytes=prefix_bytes) as served:
            prompt, answers = prompt_of(model, "the cat sat on the mat").ids, []
            for _ in range(4):
                # A second text, that is generated beside it, is one of nobody.
                stream = served.start(Prompt(prompt, None), options)[0]
                other = served.start(Prompt([7] * 9, None), options, owner="other")[0]
                answers += [await stream.read(), await other.read()]
                prompt = [*prompt, *answers[-2].tokens, 9, 8]
            return answers, served.worker.prefixes.tokens

    kept, shared = asyncio.run(turns(2**20))
    anew, none = asyncio.run(turns(0))
    assert kept == anew
    assert (shared > 60, none) == (True, 0)


def test_several_answers_to_a_prompt_have_numbers_of_their_own() -> None:
    model = serving.model()
    options = model.options(temperature=1.5, seed=7, max_new_tokens=9)

    async def run() -> list[str]:
        async with AsyncModel(model, slots=2) as served:
            streams = served.start(prompt_of(model, "the cat"), options, count=4)
            return [(await stream.read()).text for stream in streams]

    texts = asyncio.run(run())
    same = model.generate_many(["the cat"] * 4, temperature=1.5, seed=7, max_new_tokens=9)
    assert texts == [one.text for one in same]
    assert len(set(texts)) > 1


def test_what_has_no_room_in_the_queue_is_refused_and_nothing_else() -> None:
    async def run() -> None:
        model = serving.model(serving.Gate())
        async with AsyncModel(model, slots=2, queue=3) as served:
            options = model.options(max_new_tokens=4, greedy=True)
            prompt = Prompt([1, 2, 3], None)
            streams = served.start(prompt, options, count=5)
            with refused(QueueFullError, "queue", "0", "1"):
                served.start(prompt, options)
            model.engine.open()
            first = [await stream.read() for stream in streams]
            await settled(served)
            again = served.start(prompt, options, count=5)
            model.engine.open()
            assert [await stream.read() for stream in again] == first

    asyncio.run(run())


def test_a_cancelled_request_leaves_wherever_it_is() -> None:
    """In the queue, in its prompt and in its answer; the others are what they are without it."""

    async def run() -> None:
        gate = serving.Gate()
        model = serving.model(gate)
        async with AsyncModel(model, slots=3, queue=8, chunk=2) as served:
            options = model.options(max_new_tokens=60, greedy=True)
            prompts = [[1, 2], [9, 8], [3] * 20, [4, 5, 6]]
            answering, staying, reading, queued = (served.start(Prompt(p, None), options)[0] for p in prompts)
            for _ in range(6):
                gate.step_through()
            queued.cancel()
            assert served.worker.waiting == 0
            answering.cancel()
            reading.cancel()
            gate.open()
            golden = await staying.read()
            await asyncio.wait_for(settled(served), 10)
            assert len(answering.tokens) < 60
        assert golden.tokens == serving.model().generate_ids([9, 8], max_new_tokens=60, greedy=True)

    asyncio.run(run())


def test_a_reader_that_is_cancelled_frees_its_slot() -> None:
    async def run() -> None:
        async with AsyncModel(serving.model(), slots=1) as served:
            stream = await served.generate("the cat", max_new_tokens=80, greedy=True)
            task = asyncio.create_task(stream.read())
            await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(settled(served), 10)

    asyncio.run(run())


@pytest.mark.parametrize("end", ["read", "parts", "cancel"])
def test_what_an_ended_text_held_is_free_at_once(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a collection of garbage: a text of a language has a process of its own."""
    held: list[weakref.ref[Any]] = []

    async def run() -> None:
        async with AsyncModel(serving.model(), slots=1, prefix_bytes=0) as served:
            submit = served.worker.submit
            monkeypatch.setattr(
                served.worker, "submit", lambda one: (held.append(weakref.ref(one.sequence)), submit(one))
            )
            stream = await served.generate("the cat", max_new_tokens=5, greedy=True)
            if end == "read":
                await stream.read()
            elif end == "parts":
                assert [part async for part in stream]
            else:
                stream.cancel()
            await asyncio.wait_for(settled(served), 10)
            await (await served.generate("dog", max_new_tokens=1)).read()  # the worker's last is another one
            assert stream.cached_tokens == 0
            assert [one() for one in held[:1]] == [None]

    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()


def test_embeddings_and_labels() -> None:
    pool, labels = tiny_reader(Pool()), tiny_reader(Classify(2), ("no", "yes"))

    async def run() -> None:
        async with AsyncModel(pool) as served:
            both = await asyncio.gather(served.embed(["the cat", "a dog"]), served.embed("the mat"))
            assert np.array_equal(both[0], pool.embed(["the cat", "a dog"]))
            assert np.array_equal(both[1], pool.embed("the mat"))
            with refused(ConfigError, "classify"):
                await served.classify("the cat")
            with refused(ConfigError, "generate"):
                await served.generate("the cat")
        async with AsyncModel(labels) as served:
            assert await served.classify(["the cat"]) == labels.classify(["the cat"])

    asyncio.run(run())


def test_many_texts_are_read_in_parts_and_end_with_their_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfm.runtime.serve.async_model.PART", 3)
    pool = tiny_reader(Pool())
    texts = ["the cat", "a dog sat", "on the mat"] * 5
    expected = pool.embed(texts)
    calls, real = [], pool.embed

    def counted(some: list[str], **options: Any) -> np.ndarray:
        calls.append(len(some))
        return real(some, **options)

    pool.embed = counted  # pyright: ignore[reportAttributeAccessIssue]

    async def run() -> None:
        async with AsyncModel(pool) as served:
            # A library's products may sum in another order for other numbers of rows.
            equal(await served.embed(texts[:-1]), expected[:-1], 1e-6)
            assert calls == [3, 3, 3, 3, 2]
            assert (await served.embed([])).shape == (0, 0)
            task = asyncio.create_task(served.embed(texts * 10_000))
            while len(calls) < 8:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait_for(settled(served), 10)
        assert sum(calls[7:]) < 3 * len(texts) * 10_000

    asyncio.run(run())


def test_what_is_refused() -> None:
    async def run() -> None:
        model = serving.model()
        with refused(LimitError, "slots", "1", "0"):
            AsyncModel(model, slots=0)
        async with AsyncModel(model) as served:
            with refused(LimitError, "beams"):
                await served.generate("a", beams=2)
            with refused(LimitError, "context", "96"):
                await served.generate("a" * 200)
        with refused(TfmError, "closed"):
            await served.generate("a")

    asyncio.run(run())


def test_an_error_of_the_engine_reaches_every_text_and_the_next_one_is_answered() -> None:
    async def run() -> None:
        engine = serving.Gate()
        model = serving.model(engine)
        async with AsyncModel(model, slots=2) as served:
            options = model.options(max_new_tokens=4, greedy=True)
            streams = served.start(Prompt([1], None), options, count=2)
            engine.error = NumericError("broken")
            engine.open()
            for stream in streams:
                with refused(NumericError, "broken"):
                    await stream.read()
            engine.error = None
            assert len((await served.start(Prompt([1], None), options)[0].read()).tokens) == 4

    asyncio.run(run())


def test_closing_ends_what_is_not_complete() -> None:
    async def run() -> None:
        gate = serving.Gate()
        model = serving.model(gate)
        served = AsyncModel(model, slots=1)
        options = model.options(max_new_tokens=40, greedy=True)
        streams = served.start(Prompt([1], None), options, count=2)
        gate.step_through()
        closing = asyncio.create_task(served.close())
        await asyncio.sleep(0)
        gate.open()
        await closing
        for stream in streams:
            with refused(TfmError, "closed"):
                await stream.read()

    asyncio.run(run())
    assert not [thread for thread in threading.enumerate() if thread.name == "tfm-worker"]
