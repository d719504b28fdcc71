"""Answer ollama's API: `/api/chat`, `/api/generate` and `/api/embed`, and the routes that describe models."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...refimpl.config import LM, Head, Pool
from .chat import Chat, PlainText
from .encoders import EmbeddedBody, embedded
from .errors import body_of
from .models import Served, server_of
from .openapi import taking
from .requests import Body, ChatBody, CompletionBody, Said, checked
from .texts import EventStream, begin_chat, begin_texts, note, while_connected

# Of how ollama loads a model; here that is the server's own choice.
LOADING = (
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "numa", "use_mmap"),
    *("use_mlock", "low_vram", "f16_kv"),
)
NAMES = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}
SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed", "stop"),
    *NAMES,
)


class CalledFunction(Said):
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Call(Said):
    id: str = ""
    function: CalledFunction


class Message(Said):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: Annotated[list[str], Field(max_length=0)] | None = None  # this server takes text only
    tool_calls: list[Call] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None

    def for_chat(self) -> dict[str, Any]:
        """Convert the message to the form of `/v1/chat/completions`."""
        stated: dict[str, Any] = {
            "role": self.role,
            "content": self.content or "",
            "name": self.tool_name,
            "tool_call_id": self.tool_call_id,
            "reasoning_content": self.thinking or None,
        }
        if self.tool_calls:
            stated["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": json.dumps(call.function.arguments, ensure_ascii=False),
                    },
                }
                for call in self.tool_calls
            ]
        return stated


class Generating(Body):
    """The fields that requests to `/api/chat` and `/api/generate` have in common."""

    stream: bool | None = None  # which is true where it is left out
    options: dict[str, Any] | None = None
    format: dict[str, Any] | Literal["json", ""] | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    keep_alive: float | str | None = None  # models stay loaded
    logprobs: Literal[False] | None = None

    @field_validator("options")
    @classmethod
    def _are_known(cls, value: dict[str, Any] | None) -> dict[str, Any]:
        stated = {name: one for name, one in (value or {}).items() if one is not None and name not in LOADING}
        for name in stated:
            if name not in SAMPLING:
                raise ValueError(
                    f"unknown option {name!r:.40}, which this server doesn't support: remove this option"
                )
        return stated

    def stated(self) -> dict[str, Any]:
        """Return the request's model and sampling options under their names in OpenAI's API."""
        options = {NAMES.get(name, name): one for name, one in (self.options or {}).items()}
        return {"model": self.model, **options}

    def chat(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> ChatBody:
        """Convert the request to a request of `/v1/chat/completions` with these messages and tools."""
        stated = self.stated()
        if isinstance(self.format, dict):
            schema = {"name": "answer", "schema": self.format}
            stated["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.format:
            stated["response_format"] = {"type": "json_object"}
        return checked(ChatBody, {"messages": messages, "tools": tools, **stated})


class OllamaChatBody(Generating):
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None


class GenerateBody(Generating):
    prompt: str = ""
    system: str | None = None
    raw: bool | None = None  # the prompt is continued, and no template puts a question
    images: Annotated[list[str], Field(max_length=0)] | None = None
    suffix: Literal[""] | None = None
    template: Literal[""] | None = None
    context: Annotated[list[int], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _raw_alone(self) -> GenerateBody:
        if self.raw and (self.system or self.think):
            raise ValueError(
                "`raw` can't be combined with `system` or `think`, since a raw prompt doesn't use the chat "
                "template"
            )
        return self

    def continued(self) -> CompletionBody:
        """Convert the request to a request of `/v1/completions`. The answer may fill the rest of the
        context."""
        stated: dict[str, Any] = {"prompt": self.prompt, "max_tokens": -1, **self.stated()}
        if self.format:
            schema = {"type": "object"} if self.format == "json" else self.format
            stated["structured_outputs"] = {"json": schema}
        return checked(CompletionBody, stated)


@taking(OllamaChatBody)
async def chat(request: Request, body: OllamaChatBody) -> Response:
    """`POST /api/chat`: answer a chat."""
    messages = [message.for_chat() for message in body.messages]
    if not messages:
        return await _loaded(request, body, {"message": {"role": "assistant", "content": ""}})
    begin = begin_chat(request, body.chat(messages, body.tools), body.think)
    return await _answer(request, body, begin, _as_message)


@taking(GenerateBody)
async def generate(request: Request, body: GenerateBody) -> Response:
    """`POST /api/generate`: answer one message, or with `raw` continue a text."""
    if not body.prompt:
        return await _loaded(request, body, {"response": ""})
    said = [{"role": "system", "content": body.system}] if body.system else []
    asked = [*said, {"role": "user", "content": body.prompt}]
    begin = _begin_raw(request, body) if body.raw else begin_chat(request, body.chat(asked), body.think)
    return await _answer(request, body, begin, _as_text)


async def _begin_raw(request: Request, body: GenerateBody) -> Chat[PlainText]:
    served, _, answers, tokens = await begin_texts(request, body.continued())
    return Chat(served, PlainText(), answers, tokens)


async def _loaded(request: Request, body: Generating, empty: dict[str, Any]) -> Response:
    """Return the response to a request that only asks for a model to be loaded."""
    served = await server_of(request).use(request, body.model)
    return JSONResponse({**_head(served), **empty, "done": True, "done_reason": "load"})


def _as_message(text: str, thoughts: str, calls: list[Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thoughts:
        message["thinking"] = thoughts
    if calls:
        message["tool_calls"] = [
            {"function": {"name": name, "arguments": json.loads(arguments)}} for name, arguments in calls
        ]
    return {"message": message}


def _as_text(text: str, thoughts: str, calls: list[Any]) -> dict[str, Any]:
    return {"response": text, **({"thinking": thoughts} if thoughts else {})}


async def _answer(
    request: Request, body: Generating, begin: Coroutine[Any, Any, Chat[Any]], form: Any
) -> Response:
    begun = time.perf_counter()
    begun_chat = await begin
    note(request, begun_chat.served, "", begun_chat.prompt_tokens)
    parts = _parts(begun_chat, begun)
    if body.stream is not False:
        return EventStream(begun_chat.answers, _lines(parts, form), "application/x-ndjson")
    with begun_chat.answers:
        return JSONResponse(await while_connected(request, _whole(parts, form)))


async def _parts(chat: Chat[Any], begun: float) -> AsyncIterator[tuple[str, Any]]:
    """Yield texts, thoughts and complete calls as they are generated, and the figures at the end."""
    name = arguments = ""
    first = None
    async for kind, piece in chat.events():
        first = first or time.perf_counter()
        if kind in ("text", "thought"):
            yield kind, piece
        elif kind == "name":
            name, arguments = piece, ""
        elif kind == "arguments":
            arguments += piece
        elif kind == "end":
            yield "call", (name, arguments)
    end = time.perf_counter()
    read, all_of_it = (round((until - begun) * 1e9) for until in (first or end, end))
    yield (
        "done",
        {
            **_head(chat.served),
            "done": True,
            "done_reason": chat.finish_reason,
            "total_duration": all_of_it,
            "load_duration": 0,
            "prompt_eval_count": chat.prompt_tokens,
            "prompt_eval_duration": read,
            "eval_count": chat.new_tokens,
            "eval_duration": all_of_it - read,
        },
    )


async def _lines(parts: AsyncIterator[tuple[str, Any]], form: Any) -> AsyncIterator[str]:
    """Yield a line of JSON for each part."""
    try:
        async for kind, one in parts:
            if kind == "done":
                yield _line({**form("", "", []), **one})
            else:
                made = form(
                    one if kind == "text" else "", one if kind == "thought" else "", [one] * (kind == "call")
                )
                yield _line({"created_at": _now(), "done": False, **made})
    except Exception as error:  # the status has been sent
        yield _line({"error": body_of(error)["error"]["message"]})


async def _whole(parts: AsyncIterator[tuple[str, Any]], form: Any) -> dict[str, Any]:
    found: dict[str, list[Any]] = {"text": [], "thought": [], "call": [], "done": []}
    async for kind, one in parts:
        found[kind].append(one)
    (done,) = found["done"]
    return {**form("".join(found["text"]), "".join(found["thought"]), found["call"]), **done}


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _head(served: Served) -> dict[str, Any]:
    return {"model": served.name, "created_at": _now()}


def _now() -> str:
    return datetime.now(UTC).isoformat()


class EmbedBody(EmbeddedBody):
    """A request for vectors of texts. A text that is too long is cut, unless `truncate` is false."""

    truncate: bool | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None

    @property
    def most(self) -> int | None:
        return super().most if self.truncate is False else super().most or -1


@taking(EmbedBody)
async def embed(request: Request, body: EmbedBody) -> JSONResponse:
    """`POST /api/embed`: return a vector for each text."""
    served = await server_of(request).use(request, body.model)
    tokens, vectors = await embedded(request, served, body)
    return JSONResponse({**_head(served), "embeddings": vectors.tolist(), "prompt_eval_count": tokens})


CAPABILITIES: dict[type[Head], list[str]] = {LM: ["completion", "tools"], Pool: ["embedding"]}


class ShowBody(Body):
    model: str = ""
    name: str = ""  # as older clients have it
    verbose: bool | None = None


@taking(ShowBody)
async def show(request: Request, body: ShowBody) -> JSONResponse:
    """`POST /api/show`: describe a model."""
    served = await server_of(request).use(request, body.model or body.name)
    return JSONResponse(
        {
            **_described(served.name, served),
            "capabilities": CAPABILITIES.get(type(served.model.model.config.head), []),
            "model_info": {"general.architecture": "tfm", "tfm.context_length": served.context},
        }
    )


async def tags(request: Request) -> JSONResponse:
    """`GET /api/tags`: list the models that are served."""
    return JSONResponse({"models": [_described(*one) for one in server_of(request).models.items()]})


async def running(request: Request) -> JSONResponse:
    """`GET /api/ps`: list the models that are loaded."""
    loaded = [(name, one) for name, one in server_of(request).models.items() if one.loaded]
    told = [{**_described(name, one), "context_length": one.context} for name, one in loaded]
    return JSONResponse({"models": told})


async def told_version(request: Request) -> JSONResponse:
    """`GET /api/version`: return the version of tfm-cli."""
    return JSONResponse({"version": version("tfm-cli")})


def _described(name: str, served: Served) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": _now(),
        "digest": served.fingerprint or "",
        "details": {"format": "onnx", "family": "tfm"},
    }
