"""What ends a request before its answer is complete: time, a full queue, a client that leaves."""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from inspect import signature

import httpx
import pytest
from helpers import serving, tiny_models
from helpers.refused import pattern
from helpers.served import CHAT, MODEL, OPTIONS, golden
from tfm.cli.commands import serve
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.runtime.fleet.settings import Settings
from tfm.runtime.serve import models
from tfm.runtime.serve.limits import Limits
from tfm.runtime.serve.models import Server
from tfm.runtime.serve.protocol import HEADER_BYTES, MOST_PARTS
from tfm.runtime.serve.server import http_server


def test_a_slow_body_ends() -> None:
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
        assert re.search(pattern("answer", "more", "0 s"), answer.text)
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
            assert (never.status_code, never.json()["error"]["type"]) == (400, "invalid_request_error")
            assert re.search(pattern("most 3 answers", 4), never.text)
            gate.open()
            assert first.result().status_code == 200


def test_who_would_wait_too_long_is_429_with_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One slot, which the first text had for 2.5 s: the next waits for nobody, its follower 2.5 s, and 5 s
    are too many."""
    now = [0.0]
    monkeypatch.setattr("tfm.runtime.serve.worker.monotonic", lambda: now[0])
    gate = serving.Gate()
    with (
        serving.running({"tiny": serving.model(gate)}, slots=1, queue=5, max_wait=3.0) as (url, server),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
        ThreadPoolExecutor(2) as pool,
    ):
        queue = server.models["tiny"].model.worker

        def asked(running: int, waiting: int) -> Future[httpx.Response]:
            one = pool.submit(http.post, "/v1/chat/completions", json={**CHAT, "max_tokens": 1})
            serving.wait_until(lambda: (queue.running, queue.waiting) == (running, waiting))
            return one

        first = asked(1, 0)
        now[0] = 2.5
        gate.step_through()
        assert first.result().status_code == 200
        accepted = [asked(1, 0), asked(1, 1)]
        answer = http.post("/v1/chat/completions", json=CHAT)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
        assert re.search(pattern("wait", "5.0 s", "3 s"), answer.text)
        gate.open()
        assert [one.result().status_code for one in accepted] == [200, 200]


def test_a_batch_of_60_requests_waits_by_default() -> None:
    gate = serving.Gate()
    names = ("slots", "queue", "max_wait")
    command, replicas = (signature(made).parameters for made in (serve.command, Settings))
    with (
        serving.running({"tiny": serving.model(gate)}) as (url, server),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
        ThreadPoolExecutor(60) as pool,
    ):
        worker = server.models["tiny"].model.worker
        for name in names:
            assert getattr(worker, name) == command[name].default == replicas[name].default, name
        asked = [pool.submit(http.post, "/v1/chat/completions", json=CHAT) for _ in range(60)]
        serving.wait_until(lambda: worker.running + worker.waiting == 60)
        gate.open()
        assert {one.result().status_code for one in asked} == {200}


def test_64_clients_on_2_slots_get_an_answer_or_429() -> None:
    """All of them at once; those that have no room are told so while the others wait."""
    gate = serving.Gate()
    with (
        serving.running({"tiny": serving.model(gate)}, slots=2, queue=8) as (url, server),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
        ThreadPoolExecutor(64) as pool,
    ):
        asked = [pool.submit(http.post, "/v1/chat/completions", json=CHAT) for _ in range(64)]
        serving.wait_until(lambda: sum(one.done() for one in asked) == 54)
        gate.open()
        statuses = [one.result().status_code for one in asked]
        texts = {one.result().text.partition('"choices"')[2] for one in asked if one.result().is_success}
        serving.idle(server)
    assert (statuses.count(200), statuses.count(429)) == (10, 54)
    assert len(texts) == 1


def test_50_slow_bodies_and_what_is_too_large_hold_nobody_up() -> None:
    with serving.running({"tiny": MODEL}) as (url, _), httpx.Client(base_url=url, trust_env=False) as http:
        host, port = url.removeprefix("http://").split(":")
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        slow = [socket.create_connection((host, int(port)), timeout=30) for _ in range(50)]
        for one in slow:
            one.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        nested = b'{"model":' * 100_000 + b"1" + b"}" * 100_000
        kind = {"content-type": "application/json"}
        # No byte more than is refused: what stays unread would reset the connection, and the answer with it.
        largest = b" " * Limits().body
        for content, status in ((largest, 400), (largest + b" ", 413), (nested, 400)):
            assert http.post("/v1/completions", content=content, headers=kind).status_code == status
            assert http.get("/health").status_code == 200
        with socket.create_connection((host, int(port)), timeout=30) as other:
            other.sendall(f"{head}X-Long: ".ljust(HEADER_BYTES + 1, "x").encode())
            assert other.recv(1000).startswith(b"HTTP/1.1 400")
        assert http.get("/health").status_code == 200
        for one in slow:
            one.close()


def test_a_body_has_few_parts() -> None:
    """Each is work, even one of one byte; what comes after them isn't read."""
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    body = json.dumps({"model": "tiny", "prompt": [1], "max_tokens": 1}).encode()
    with serving.running({"tiny": MODEL}) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        for spaces, status in ((MOST_PARTS - len(body), b"200"), (MOST_PARTS - len(body) + 1, b"400")):
            with socket.create_connection((host, int(port)), timeout=60) as one:
                chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b" " * spaces + body)
                one.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n")
                assert one.recv(1000).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_ends_its_own_side_gets_its_answer(stream: bool) -> None:
    body = json.dumps({**CHAT, "stream": stream}).encode()
    gate = serving.Gate()
    with serving.running({"tiny": serving.model(gate)}) as (url, server):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as one:
            head = (
                "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            )
            one.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            one.shutdown(socket.SHUT_WR)
            serving.wait_until(lambda: server.models["tiny"].model.worker.running == 1)
            gate.open()
            received = b"".join(iter(lambda: one.recv(2**16), b""))
        answered = received.split(b"HTTP/1.1 102 Processing\r\n\r\n")[-1]
        assert answered.startswith(b"HTTP/1.1 200")
        if not stream:
            assert (
                json.loads(answered.partition(b"\r\n\r\n")[2])["choices"][0]["message"]["content"] == golden()
            )
        assert (b"[DONE]" in answered) == stream


def test_clients_end_idle_connections_before_the_server_does() -> None:
    """A client that sends while the server closes gets an error instead of an answer."""
    kept = httpx.Limits().keepalive_expiry
    assert kept is not None
    assert 3 * kept <= http_server(Server({}), "127.0.0.1").config.timeout_keep_alive


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


# In a process of its own, whose allocator has no free blocks of that size.
LARGE_BLOCKS = """
import ctypes
from tfm.runtime.hardware import return_large_blocks
allocator = ctypes.CDLL(None)
Info = type("Info", (ctypes.Structure,), {"_fields_": [("figures", ctypes.c_size_t * 10)]})
allocator.mallinfo2.restype = Info
mapped = lambda: allocator.mallinfo2().figures[4]
return_large_blocks()
before, size = mapped(), 2**23
earlier = bytearray(size)
del earlier
body = bytearray(size)
assert mapped() >= before + size
del body
assert mapped() <= before
"""


def test_memory_of_a_large_body_is_the_systems_again_after_others_of_its_size(monkeypatch) -> None:
    """Left alone, glibc keeps blocks as large as one that was freed, and returns them in part only."""
    subprocess.run([sys.executable, "-c", LARGE_BLOCKS], check=True)
    called: list[None] = []
    monkeypatch.setattr(models, "return_large_blocks", lambda: called.append(None))
    Server({})
    assert called
