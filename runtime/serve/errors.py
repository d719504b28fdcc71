"""Convert errors to HTTP answers in the form of the OpenAI API: a status, a message and the name of the wrong
field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...refimpl.errors import ArgumentError, CheckpointError, ConfigError, ContextError, LimitError, TfmError
from .worker import QueueFullError


class RequestError(TfmError):
    """Raised for a request that the server can't answer.

    `status` is the HTTP status, 400 or above. `param` is the name of the wrong field. `code` is a short
    name of the error for programs.
    """

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


def status_of(error: BaseException) -> int:
    """Return the HTTP status of the answer to a request that raised this error."""
    match error:
        case RequestError() | HTTPException():
            return error.status if isinstance(error, RequestError) else error.status_code
        case QueueFullError():
            return 429
        case TimeoutError():
            return 504
        # A template refuses a conversation by a CheckpointError.
        case LimitError() | ArgumentError() | ConfigError() | CheckpointError():
            return 400
        case _:
            return 500


def body_of(error: BaseException) -> dict[str, Any]:
    """Return the error as JSON, in a form that clients of OpenAI's and Anthropic's APIs read.

    The message of an unexpected error is hidden, because it may reveal more than a client should know.
    """
    status = status_of(error)
    if status == 429:
        kind = "rate_limit_error"
    else:
        kind = "invalid_request_error" if status < 500 else "server_error"
    message = "internal error"
    if isinstance(error, TfmError | TimeoutError):
        message = str(error)
    elif isinstance(error, HTTPException):
        allowed = (error.headers or {}).get("Allow")
        message = f"{error.detail}: this path takes {allowed}" if allowed else error.detail
    param = error.param if isinstance(error, RequestError) else None
    code = error.code if isinstance(error, RequestError) else None
    if isinstance(error, ContextError):
        code = "context_length_exceeded"
    return {"type": "error", "error": {"message": message, "type": kind, "param": param, "code": code}}


def response_to(error: BaseException, *, as_text: bool = False) -> JSONResponse:
    """Return the HTTP response to a request that raised this error. With `as_text`, the body contains only
    the message, as in ollama's API.
    """
    headers: Mapping[str, str] = {}
    if isinstance(error, QueueFullError):
        headers = {"retry-after": str(max(math.ceil(error.retry_s), 1))}
    if isinstance(error, HTTPException):
        headers = {**headers, **(error.headers or {})}
    body = body_of(error)
    if as_text:
        body = {"error": body["error"]["message"]}
    return JSONResponse(body, status_of(error), dict(headers))


async def handle(request: Request, error: Exception) -> Response:
    """Return the HTTP response to a request that raised an error. Starlette calls this handler."""
    return response_to(error, as_text=request.scope["path"].startswith("/api/"))
