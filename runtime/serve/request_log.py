"""Log one line of JSON for each request: the path, the model, the number of tokens, the time, and how the
request ended.

    {"time": "2026-01-31T12:00:00.000+00:00", "id": "chatcmpl-…", "path": "/v1/chat/completions",
     "status": 200, "key": 1, "model": "smollm2-135m", "prompt_tokens": 31, "new_tokens": 9,
     "first_token_s": 0.08, "finish_reasons": ["stop"], "total_s": 0.31}

A field with an unknown value is left out. The log never contains a prompt, an answer or a key: `key` is
the number of the key in the file of keys. The finish reason is null if the client disconnected during a
stream.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import response_to
from .metrics import Metrics

Record = dict[str, Any]


def record_of(request: HTTPConnection) -> Record:
    """Return the log record of a request. Routes add fields to this record."""
    return request.scope["tfm.record"]


class LogRequests:
    """ASGI middleware that counts requests by path and status, and writes a log record for each request.

    All paths without a route are counted together. An unexpected error is answered with status 500, and
    its traceback goes to stderr.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, paths: set[str], write: Callable[[str], None] | None
    ) -> None:
        self._app, self._metrics, self._paths, self._write = app, metrics, paths, write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        record: Record = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": f"req-{secrets.token_hex(12)}",
            "path": scope["path"] if scope["path"] in self._paths else "other",
            "status": None,
        }
        scope["tfm.record"] = record

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        def count(status: int) -> None:
            record["status"] = status
            self._metrics.requests.labels(record["path"], status).inc()

        try:
            await self._app(scope, receive, counted)
        except Exception as error:  # that nobody expected; Starlette's own answer would cut the connection
            if record["status"] is not None:
                raise
            logging.getLogger(__name__).exception("a request failed")
            await response_to(error)(scope, receive, counted)
        finally:
            record["total_s"] = round(time.perf_counter() - begin, 4)
            if self._write is not None:
                self._write(json.dumps(record))
