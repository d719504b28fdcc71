"""Run a replica: the application of `tfm-cli serve` in its own process. `forward` sends requests to
replicas.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from starlette.types import Message, Scope

from ..serve.app import LOOPBACK, application
from ..serve.models import Server
from ..tasks import load


class Replica:
    """A process with its own models and queues.

    Without API keys, a replica accepts a request only if the Host header names this machine, like `tfm-cli
    serve`.
    """

    def __init__(
        self,
        bundles: Mapping[str, Path],
        keys: Sequence[str],
        slots: int,
        queue: int,
        max_wait: float,
        device: str,
        threads: int,
    ) -> None:
        loads = {name: partial(load, path, device, threads) for name, path in bundles.items()}
        server = Server(loads, slots=slots, queue=queue, max_wait=max_wait)
        self._app = application(server, keys, ["*"] if keys else LOOPBACK)

    async def answer(self, scope: Scope, body: bytes) -> AsyncIterator[Message]:
        """Yield the ASGI messages that the application sends for a request. If the caller stops iterating,
        the request is cancelled."""
        sent: asyncio.Queue[Message | None] = asyncio.Queue()
        parts = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Message:
            if (part := next(parts, None)) is None:
                await asyncio.Event().wait()  # the client stays until this is cancelled
            return part or {"type": "http.disconnect"}

        async def work() -> None:
            try:
                await self._app(scope, receive, sent.put)
            finally:
                sent.put_nowait(None)

        task = asyncio.ensure_future(work())
        try:
            while (message := await sent.get()) is not None:
                yield message
            await task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
