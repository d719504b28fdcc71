"""The application: routes, who may call them, and how errors are answered."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import AsyncIterator, Sequence

from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    BaseUser,
    SimpleUser,
)
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...refimpl.errors import TfmError
from .encoders import classify, embeddings, rerank
from .errors import RequestError, handle, response_to
from .metrics import Metrics
from .models import Server, server_of
from .page import page
from .texts import chat_completions, completions

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
OPEN = ("/health", "/")  # routes that need no key: they say nothing of models


def application(server: Server, keys: Sequence[str] = (), hosts: Sequence[str] = LOOPBACK) -> Starlette:
    """The ASGI application of a server.

    With `keys` each request but those for OPEN has one of them as its bearer token. `hosts` are the names
    that a request's Host header may have: a page whose own name leads to this machine (DNS rebinding) sends
    another one.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await server.close()

    middleware = [
        Middleware(CountRequests, metrics=server.metrics, paths={route.path for route in ROUTES}),
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
    ]
    if keys:
        backend = Keys([key.encode() for key in keys])
        middleware.append(Middleware(AuthenticationMiddleware, backend=backend, on_error=_unauthorized))
    handlers = dict.fromkeys((TfmError, HTTPException, TimeoutError, Exception), handle)
    handlers[ClientDisconnect] = _gone
    app = Starlette(routes=ROUTES, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)
    app.state.server = server
    return app


class Keys(AuthenticationBackend):
    """The bearer token must be one of the keys; how long the comparison takes says nothing about them."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        if conn.url.path in OPEN:
            return None
        scheme, _, token = conn.headers.get("authorization", "").partition(" ")
        matches = [hmac.compare_digest(token.strip().encode(), key) for key in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise AuthenticationError("this server takes requests with its key: Authorization: Bearer KEY")
        return AuthCredentials(), SimpleUser(f"key {matches.index(True)}")


def _unauthorized(_: HTTPConnection, error: Exception) -> Response:
    response = response_to(RequestError(str(error), code="invalid_api_key", status=401))
    response.headers["www-authenticate"] = "Bearer"
    return response


async def _gone(request: Request, error: Exception) -> Response:
    """Nobody reads it; the figures count it by this status, which nginx has for it."""
    return Response(status_code=499)


class CountRequests:
    """Counts requests by path and status; paths that aren't routes are one."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: set[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counted)


async def health(request: Request) -> JSONResponse:
    """`GET /health`: the server runs."""
    return JSONResponse({"status": "ok"})


async def models(request: Request) -> JSONResponse:
    """`GET /v1/models`: the models that are served."""
    server = server_of(request)
    return JSONResponse({"object": "list", "data": [_described(server, name) for name in server.models]})


async def one_model(request: Request) -> JSONResponse:
    """`GET /v1/models/NAME`."""
    server = server_of(request)
    return JSONResponse(_described(server, server.find(request.path_params["name"]).name))


def _described(server: Server, name: str) -> dict[str, object]:
    context = server.models[name].model.model.config.context
    return {"id": name, "object": "model", "created": 0, "owned_by": "tfm", "max_model_len": context}


async def certificate(request: Request) -> JSONResponse:
    """`GET /certificate?model=NAME`: what `tfm-cli verify` found of the model's bundle."""
    server = server_of(request)
    served = server.find(request.query_params.get("model") or next(iter(server.models)))
    if served.certificate is None:
        raise RequestError(f"{served.name} has no certificate: `tfm-cli verify` writes it", status=404)
    return JSONResponse(served.certificate)


async def metrics(request: Request) -> Response:
    """`GET /metrics`: figures for Prometheus."""
    return Response(server_of(request).metrics.text(), media_type="text/plain; version=0.0.4")


ROUTES = [
    Route("/", page),
    Route("/health", health),
    Route("/metrics", metrics),
    Route("/certificate", certificate),
    Route("/v1/models", models),
    Route("/v1/models/{name:path}", one_model),
    Route("/v1/chat/completions", chat_completions, methods=["POST"]),
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/embeddings", embeddings, methods=["POST"]),
    Route("/v1/rerank", rerank, methods=["POST"]),
    Route("/v1/classify", classify, methods=["POST"]),
]
