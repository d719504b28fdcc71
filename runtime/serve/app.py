"""Make the server's application: its routes, access control, and the responses to errors."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    BaseUser,
    SimpleUser,
)
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...refimpl.errors import TfmError
from .anthropic_messages import count_tokens, create_message
from .encoders import classify, embeddings, rerank
from .errors import RequestError, handle, response_to
from .models import ReleaseModels, Served, Server, server_of
from .ollama import chat, embed, generate, running, show, tags, told_version
from .openai_responses import create_response, one_response
from .openapi import document, of_model
from .page import FILES, page, static
from .request_log import LogRequests, record_of
from .sounds import transcriptions, translations
from .text_routes import apply_template, detokenize, props, tokenize
from .texts import chat_completions, completions

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
METHODS = ("GET", "POST", "DELETE")
OPEN = ("/health", "/", *(f"/static/{name}" for name in FILES))  # they say nothing of models, and need no key

# What to do in place of other servers' paths that this server doesn't have: llama.cpp's, then ollama's, then
# whisper.cpp's. A key also matches the paths below it.
INSTEAD = {
    "/completion": "use /v1/completions, with max_tokens in place of n_predict",
    "/infill": "tfm can't fill the middle of a text; /v1/completions continues a text",
    "/embedding": "use /v1/embeddings, with input in place of content",
    "/reranking": "use /v1/rerank",
    "/slots": "/metrics counts the running and the waiting requests",
    "/lora-adapters": "`tfm-cli export MODEL OUT --adapter DIR` merges an adapter into a bundle to serve",
    "/api/embeddings": "use /api/embed, with input in place of prompt",
    "/api/pull": "`tfm-cli pull NAME` fetches a model; `tfm-cli serve` says which models are served",
    "/api/push": "the server doesn't change models",
    "/api/create": "`tfm-cli serve NAME=MODEL` gives a model a name",
    "/api/copy": "`tfm-cli serve NAME=MODEL` gives a model a name",
    "/api/delete": "`tfm-cli models --remove NAME` removes a model",
    "/api/blobs": "the server stores no files",
    "/inference": "use /v1/audio/transcriptions",
}


def application(
    server: Server,
    keys: Sequence[str] = (),
    hosts: Sequence[str] = LOOPBACK,
    log: Callable[[str], None] | None = None,
    origins: Sequence[str] = (),
) -> Starlette:
    """Return the ASGI application of a server.

    - `keys`: the API keys. Each request must send one of them as its bearer token, except requests for the
      paths in OPEN.
    - `hosts`: the names that a request's Host header may have. This stops DNS rebinding: a malicious page
      from a domain that resolves to this machine sends its own domain as the Host.
    - `log`: a function that is called with a line of JSON for each request (`request_log`).
    - `origins`: the origins of web pages that may call the server from a browser (CORS). `*` allows any
      page.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        unloading = asyncio.create_task(server.unload_idle())
        yield
        unloading.cancel()
        await server.close()

    middleware = [
        Middleware(LogRequests, metrics=server.metrics, paths={route.path for route in ROUTES}, write=log),
        Middleware(ReleaseModels),
        Middleware(CORSMiddleware, allow_origins=origins, allow_methods=METHODS, allow_headers=["*"]),
        Middleware(KnownHosts, hosts=hosts),
    ]
    if keys:
        backend = Keys([key.encode() for key in keys])
        middleware.append(Middleware(AuthenticationMiddleware, backend=backend, on_error=_unauthorized))
    handlers: dict[Any, Any] = {
        **dict.fromkeys((TfmError, HTTPException, TimeoutError), handle),
        404: _not_found,
        ClientDisconnect: _gone,
    }
    app = Starlette(routes=ROUTES, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)
    app.state.server = server
    return app


class KnownHosts:
    """ASGI middleware that refuses a request if its Host header isn't one of `hosts`."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, hosts
        self._library = TrustedHostMiddleware(_known, list(hosts), www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        known: list[bool] = []
        await self._library({**scope, "tfm.known": known}, receive, _unsent)
        if known:
            await self._app(scope, receive, send)
            return
        host = Headers(scope=scope).get("host", "")
        names = ", ".join(self._hosts)
        error = RequestError(
            f"the Host header must be one of {names}, got {host!r:.80}: allow this host with --allowed-host"
        )
        await (await handle(Request(scope), error))(scope, receive, send)


async def _known(scope: Scope, receive: Receive, send: Send) -> None:
    scope["tfm.known"].append(True)


async def _unsent(message: Message) -> None:
    """Drop the response of Starlette's middleware, which is plain text."""


class Keys(AuthenticationBackend):
    """Authentication that requires one of the API keys as a request's bearer token. The comparison takes
    constant time, so its duration reveals nothing about the keys.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        if conn.scope["path"] in OPEN:  # `conn.url` may follow the Host header
            return None
        stated = conn.headers.get("x-api-key")  # as Anthropic's clients send it
        given = conn.headers.get("authorization", "") if stated is None else f"Bearer {stated}"
        scheme, _, token = given.partition(" ")
        matches = [hmac.compare_digest(token.strip().encode(), key) for key in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise AuthenticationError(
                "the API key is missing or wrong: send the header Authorization: Bearer KEY"
            )
        number = matches.index(True) + 1
        record_of(conn)["key"] = number
        return AuthCredentials(), SimpleUser(str(number))


def _unauthorized(_: HTTPConnection, error: Exception) -> Response:
    response = response_to(RequestError(str(error), code="invalid_api_key", status=401))
    response.headers["www-authenticate"] = "Bearer"
    return response


async def _gone(request: Request, error: Exception) -> Response:
    """Return a response that nobody reads. The metrics count the request under nginx's status for it, 499."""
    return Response(status_code=499)


async def _not_found(request: Request, error: Exception) -> Response:
    """Return a response for an unknown path that names the route that the client probably means, or what to
    do instead.
    """
    path = request.scope["path"].rstrip("/")
    routes = [route.path for route in ROUTES if len(route.path) > 1 and path]
    similar = [one for one in routes if one.endswith(path) or path.endswith(one)]
    meant = min(similar, key=lambda one: abs(len(one) - len(path)), default=None)
    told = next((f": {what}" for one, what in INSTEAD.items() if f"{path}/".startswith(f"{one}/")), "")
    if not told and meant is not None:
        told = f": did you mean {meant}?"
    of_ollama = path.startswith("/api/") and not path.startswith("/api/v1/")
    return response_to(
        RequestError(f"this server has no path {path!r:.80}{told}", status=404), as_text=of_ollama
    )


async def health(request: Request) -> JSONResponse:
    """`GET /health`: confirm that the server runs."""
    return JSONResponse({"status": "ok"})


async def models(request: Request) -> JSONResponse:
    """`GET /v1/models`: list the models that are served."""
    server = server_of(request)
    return JSONResponse({"object": "list", "data": [_described(server, name) for name in server.models]})


async def one_model(request: Request) -> JSONResponse:
    """`GET /v1/models/NAME`: describe one model."""
    server = server_of(request)
    return JSONResponse(_described(server, server.find(request.path_params["name"]).name))


def _described(server: Server, name: str) -> dict[str, object]:
    served = server.models[name]
    known = {"max_model_len": served.context, "endpoints": served.endpoints}
    return {"id": name, "object": "model", "created": 0, "owned_by": "tfm", **known}


@of_model
def certificate(_: Request, served: Served) -> JSONResponse:
    """`GET /certificate?model=NAME`: return the certificate that `tfm-cli verify` wrote into the model's
    bundle."""
    if served.certificate is None:
        raise RequestError(
            f"the model {served.name} has no certificate: `tfm-cli verify` writes one", status=404
        )
    return JSONResponse(served.certificate)


async def metrics(request: Request) -> Response:
    """`GET /metrics`: return the server's figures in Prometheus' format."""
    return Response(server_of(request).metrics.text(), media_type="text/plain; version=0.0.4")


async def openapi(request: Request) -> JSONResponse:
    """`GET /openapi.json`: describe these routes, for programs that generate clients."""
    return JSONResponse(document(ROUTES, keys="user" in request.scope))


ROUTES = [
    Route("/", page),
    Route("/static/{name}", static),
    Route("/health", health),
    Route("/metrics", metrics),
    Route("/openapi.json", openapi),
    Route("/certificate", certificate),
    Route("/v1/models", models),
    Route("/v1/models/{name:path}", one_model),
    Route("/v1/chat/completions", chat_completions, methods=["POST"]),
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/responses", create_response, methods=["POST"]),
    Route("/v1/responses/{id}", one_response, methods=["GET", "DELETE"]),
    Route("/v1/messages", create_message, methods=["POST"]),
    Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
    Route("/v1/embeddings", embeddings, methods=["POST"]),
    Route("/v1/audio/transcriptions", transcriptions, methods=["POST"]),
    Route("/v1/audio/translations", translations, methods=["POST"]),
    Route("/api/chat", chat, methods=["POST"]),
    Route("/api/generate", generate, methods=["POST"]),
    Route("/api/embed", embed, methods=["POST"]),
    Route("/api/show", show, methods=["POST"]),
    Route("/api/tags", tags),
    Route("/api/ps", running),
    Route("/api/version", told_version),
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/detokenize", detokenize, methods=["POST"]),
    Route("/apply-template", apply_template, methods=["POST"]),
    Route("/props", props),
    Route("/v1/rerank", rerank, methods=["POST"]),
    Route("/v1/classify", classify, methods=["POST"]),
]
