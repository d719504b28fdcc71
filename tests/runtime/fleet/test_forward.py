"""Requests that are forwarded to replicas: what comes back, and what the end of a replica does; no Ray."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import serving
from helpers.refused import refused
from helpers.served import CHAT, MODELS, golden
from tfm.refimpl.errors import TfmError
from tfm.runtime.fleet.forward import Forward, ReplicaGoneError
from tfm.runtime.fleet.replica import Replica
from tfm.runtime.serve.app import application
from tfm.runtime.serve.limits import LIMITS, Limits
from tfm.runtime.serve.models import Server


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> Iterator[Replica]:
    monkeypatch.setattr("tfm.runtime.fleet.replica.load", lambda path, *_: MODELS[path.name])
    made = Replica({"tiny": Path("tiny"), "pool": Path("pool")}, ["key"], 2, 8, 3.0, "cpu", 1)
    yield made
    asyncio.run(made._app.state.server.close())


GONE = "no replica"


class Ending:
    """A replica that ends, each time that it is asked, after so many messages of the body."""

    def __init__(self, replica: Replica, *after: int) -> None:
        self._replica, self._after = replica, list(after)
        self.asked = 0

    async def __call__(self, scope: Any, body: bytes) -> AsyncIterator[Any]:
        self.asked += 1
        left = self._after.pop(0) if self._after else None
        async for message in self._replica.answer(scope, body):
            if left is not None and message["type"] == "http.response.body":
                if left == 0:
                    raise ReplicaGoneError(GONE)
                left -= 1
            yield message


def client(forward: Forward) -> httpx.AsyncClient:
    """A client of the application, with its key."""
    transport = httpx.ASGITransport(forward)
    headers = {"authorization": "Bearer key"}
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers)


def ask(forward: Forward, **more: Any) -> httpx.Response:
    async def post() -> httpx.Response:
        async with client(forward) as http:
            return await http.post("/v1/chat/completions", json=CHAT | more)

    return asyncio.run(post())


def counts(forward: Forward) -> dict[str, int]:
    """The outcomes that `/metrics` shows, after the figures of a replica."""

    async def get() -> str:
        async with client(forward) as http:
            return (await http.get("/metrics")).text

    text = asyncio.run(get())
    assert "tfm_loaded" in text
    lines = [line for line in text.splitlines() if line.startswith("tfm_fleet_requests_total{")]
    return {line.split('"')[1]: int(float(line.split()[-1])) for line in lines}


def test_an_answer_is_the_servers(replica: Replica):
    forward = Forward(replica.answer)
    assert ask(forward).json()["choices"][0]["message"]["content"] == golden()
    lines = [line for line in ask(forward, stream=True).text.splitlines() if line]
    assert lines.pop() == "data: [DONE]"
    parts = [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines]
    assert "".join(part.get("content", "") for part in parts) == golden()
    assert ask(forward, top_p=7).json()["error"]["param"] == "top_p"
    assert counts(forward) == {"answered": 3, "retried": 0, "broken": 0, "failed": 0}


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_not_sent_is_asked_once_more(replica: Replica, stream: bool):
    ending = Ending(replica, 0)
    forward = Forward(ending)
    told = ask(forward, stream=stream)
    assert told.status_code == 200
    assert golden() in told.text or stream
    assert told.text.count("[DONE]") == stream
    assert ending.asked == 2
    assert counts(forward) == {"answered": 1, "retried": 1, "broken": 0, "failed": 0}


def test_the_second_end_is_the_last(replica: Replica):
    ending = Ending(replica, 0, 0)
    forward = Forward(ending)
    told = ask(forward)
    assert (told.status_code, told.json()["error"]["type"]) == (503, "server_error")
    assert re.match("two replicas .*again", told.json()["error"]["message"])
    assert ending.asked == 2
    assert counts(forward) == {"answered": 0, "retried": 1, "broken": 0, "failed": 1}


def test_a_stream_that_has_begun_ends_with_an_error(replica: Replica):
    ending = Ending(replica, 3)
    forward = Forward(ending)
    told = ask(forward, stream=True)
    assert told.status_code == 200
    last = json.loads([line for line in told.text.splitlines() if line][-1].removeprefix("data: "))
    assert last["error"] == {
        "message": GONE, "type": "server_error", "param": None, "code": None,
    }  # fmt: skip
    assert told.text.count("data: ") == 4
    assert ending.asked == 1
    assert counts(forward) == {"answered": 0, "retried": 0, "broken": 1, "failed": 0}


def test_an_error_of_the_replica_itself_is_not_retried(replica: Replica):
    async def failing(scope: Any, body: bytes) -> AsyncIterator[Any]:
        raise TfmError("a bug")
        yield

    with refused(TfmError, "bug"):
        ask(Forward(failing))


def test_keys_hosts_and_limits_are_the_servers(replica: Replica):
    async def told() -> list[int]:
        async with client(Forward(replica.answer)) as http:
            answers = [
                await http.get("/v1/models", headers={"authorization": "Bearer other"}),
                await http.get("/metrics", headers={"authorization": ""}),
                await http.get("/health", headers={"authorization": ""}),
                await http.post("/v1/chat/completions", content=b" " * (LIMITS.body + 1), headers=JSON),
                await http.post(
                    "/v1/chat/completions", content=b"{}", headers={"origin": "http://evil.example"}
                ),
            ]
        assert not any("tfm_fleet" in answer.text for answer in answers)
        return [answer.status_code for answer in answers]

    assert asyncio.run(told()) == [401, 401, 200, 413, 415]


JSON = {"content-type": "application/json"}


def test_a_body_that_does_not_come():
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/v1/chat/completions", "method": "POST", "headers": []}
    asyncio.run(Forward(lambda *_: pytest.fail("asked"), Limits(read_s=0.01))(scope, receive, send))
    assert sent[0]["status"] == 408


def test_who_stops_reading_ends_the_request():
    gate = serving.Gate()
    server = Server({"tiny": lambda: serving.model(gate)}, slots=1, queue=1)
    stopped = Replica.__new__(Replica)
    stopped._app = application(server)
    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")],
    }  # fmt: skip

    async def leave() -> None:
        messages = stopped.answer(scope, json.dumps(CHAT | {"stream": True}).encode())
        await anext(messages)
        closed, _ = await asyncio.wait({asyncio.ensure_future(messages.aclose())}, timeout=30)
        gate.open()
        assert closed

    asyncio.run(leave())
    serving.idle(server)
    asyncio.run(server.close())
