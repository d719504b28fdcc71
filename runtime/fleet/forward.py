"""Forward requests to replicas, and handle replicas that end.

If a replica ends before an answer has begun, the request is sent again, to another replica or to a new
one. A stream that has begun can't be repeated, so it ends with an error event. `/metrics` counts both
cases.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from prometheus_client import CollectorRegistry, Counter, generate_latest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from ...refimpl.errors import TfmError
from ..serve.errors import RequestError, body_of, response_to
from ..serve.limits import LIMITS, Limits
from ..serve.responses import event

Ask = Callable[[Scope, bytes], AsyncIterator[Message]]  # what a replica sends for a request
FIGURES = "/metrics"
# What a replica needs of a request, all of it plain values.
PASSED = (
    "type",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "headers",
)
OUTCOMES = ("answered", "retried", "broken", "failed")


class ReplicaGoneError(TfmError):
    """Raised if the replica that received a request has ended."""


class Forward:
    """An ASGI application that forwards requests to replicas.

    `/metrics` returns the figures of one replica, followed by the figures of this application.
    """

    def __init__(self, ask: Ask, limits: Limits = LIMITS) -> None:
        self._ask, self._limits = ask, limits
        self._registry = CollectorRegistry()
        self._outcomes = Counter(
            "tfm_fleet_requests",
            "Requests by outcome; one that is retried has another one too.",
            ["outcome"],
            registry=self._registry,
        )
        for outcome in OUTCOMES:
            self._outcomes.labels(outcome)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        try:
            body = await self._body(Request(scope, receive))
        except ClientDisconnect:
            return
        except TimeoutError:
            late = RequestError(
                f"the request's body must arrive within {self._limits.read_s:g} s", status=408
            )
            await response_to(late)(scope, receive, send)
            return
        passed = {name: scope[name] for name in PASSED if name in scope}
        for outcome in ("retried", "failed"):
            answer = _Answer(send)
            try:
                async for message in self._messages(passed, body):
                    await answer.pass_on(message)
                self._count("answered")
                return
            except ReplicaGoneError as error:
                if answer.begun:
                    self._count("broken")
                    await answer.end(error)
                    return
                self._count(outcome)
        gone = RequestError("two replicas ended while computing this request: try again later", status=503)
        await response_to(gone)(scope, receive, send)

    async def _messages(self, scope: Scope, body: bytes) -> AsyncIterator[Message]:
        """Yield the messages that a replica sends for a request. For `/metrics`, append the figures of this
        application.

        The replica checks the API key, so the figures are appended only to a successful answer.
        """
        messages = self._ask(scope, body)
        if scope["path"] != FIGURES:
            async for message in messages:
                yield message
            return
        start, *parts = [message async for message in messages]
        text = b"".join(part.get("body", b"") for part in parts)
        if start["status"] == 200:
            text += generate_latest(self._registry)
        headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        yield {**start, "headers": [*headers, (b"content-length", str(len(text)).encode())]}
        yield {"type": "http.response.body", "body": text}

    def _count(self, outcome: str) -> None:
        self._outcomes.labels(outcome).inc()

    async def _body(self, request: Request) -> bytes:
        """Return a request's body, cut to one byte more than the limit. A replica refuses such a body."""
        body = b""
        async with asyncio.timeout(self._limits.read_s):
            async for part in request.stream():
                body += part
                if len(body) > self._limits.body:
                    break
        return body[: self._limits.body + 1]


class _Answer:
    """The answer that a client gets. The status is sent only together with the first part of the body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self.begun = False

    async def pass_on(self, message: Message) -> None:
        """Pass a message of a replica on to the client."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is not None:
            start, self._start = self._start, None
            self.begun = True
            await self._send(start)
        await self._send(message)

    async def end(self, error: ReplicaGoneError) -> None:
        """End an answer that has begun with an error event, because its replica has ended."""
        await self._send({"type": "http.response.body", "body": event(body_of(error)).encode()})
