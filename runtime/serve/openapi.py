"""Declare which body an endpoint accepts, and make the OpenAPI document from these declarations:
`/openapi.json`.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from importlib.metadata import version
from typing import Any, TypeVar

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .limits import Limits
from .models import Served, server_of
from .requests import Body, read, read_form

B = TypeVar("B", bound=Body)
Endpoint = Callable[[Request], Awaitable[Response]]


def taking_form(kind: type[B]) -> Callable[[Callable[[Request, B], Awaitable[Response]]], Endpoint]:
    """Decorate an endpoint that accepts a form with a file. The form is validated as an instance of
    `kind`.
    """
    return taking(kind, read_form, "multipart/form-data")


def taking(
    kind: type[B],
    read: Callable[[Request, type[B], Limits], Awaitable[B]] = read,
    of: str = "application/json",
) -> Callable[[Callable[[Request, B], Awaitable[Response]]], Endpoint]:
    """Turn a function of a request and its body into an endpoint. The body is validated as an instance of
    `kind`.

    `read` reads the body, and `of` is its content type in the OpenAPI document.
    """

    def decorate(function: Callable[[Request, B], Awaitable[Response]]) -> Endpoint:
        @functools.wraps(function)
        async def endpoint(request: Request) -> Response:
            return await function(request, await read(request, kind, server_of(request).limits))

        endpoint.__dict__["body"] = kind
        endpoint.__dict__["of"] = of
        return endpoint

    return decorate


def of_model(function: Callable[[Request, Served], Response]) -> Endpoint:
    """Turn a function of a request and a model into an endpoint. The query `?model=NAME` names the model.
    Without the query, the server's first model is used.
    """

    @functools.wraps(function)
    async def endpoint(request: Request) -> Response:
        server = server_of(request)
        return function(request, server.find(request.query_params.get("model") or next(iter(server.models))))

    endpoint.__dict__["query"] = ["model"]
    return endpoint


def document(routes: Iterable[Route], *, keys: bool) -> dict[str, Any]:
    """Describe the routes in OpenAPI 3.1: methods, parameters and bodies. `keys` says whether requests need
    an API key.
    """
    listed = list(routes)
    kinds = {route.path: kind for route in listed if (kind := getattr(route.endpoint, "body", None))}
    schemas, defined = models_json_schema(
        [(kind, "validation") for kind in dict.fromkeys(kinds.values())],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, Any] = {}
    for route in listed:
        about: dict[str, Any] = {
            "summary": (route.endpoint.__doc__ or "").strip(),
            "responses": {"200": {"description": "The answer."}, "4XX": {"description": "What is wrong."}},
        }
        if (kind := kinds.get(route.path)) is not None:
            content = {route.endpoint.__dict__["of"]: {"schema": schemas[kind, "validation"]}}
            about["requestBody"] = {"required": True, "content": content}
        places = [("path", name, True) for name in route.param_convertors]
        places += [("query", name, False) for name in getattr(route.endpoint, "query", ())]
        if places:
            about["parameters"] = [
                {"in": place, "name": name, "required": required, "schema": {"type": "string"}}
                for place, name, required in places
            ]
        paths[route.path_format] = {
            method.lower(): {"operationId": f"{method.lower()}_{route.name}", **about}
            for method in sorted((route.methods or set()) - {"HEAD"})
        }
    components = {"schemas": defined.get("$defs", {})}
    made = {
        "openapi": "3.1.0",
        "info": {"title": "tfm", "version": version("tfm-cli")},
        "paths": paths,
        "components": components,
    }
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"key": []}]
    return made
