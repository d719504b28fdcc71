"""Answer `/v1/responses`, OpenAI's newer API for chats: the request's items become messages for the model,
and the model's answer becomes items.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .chat import joined_systems, joined_users, named_events
from .models import owner_of, server_of
from .openapi import taking
from .requests import (
    MOST_LOGPROBS,
    ChatBody,
    Count,
    Function,
    Harmless,
    JsonObject,
    NamedSchema,
    Part,
    Said,
    TextFormat,
    as_parts,
    checked,
    sampling_of,
    stating,
)
from .response_items import Made
from .texts import EventStream, begin_chat, note, while_connected

# Fields of a request that its answer has too.
REPEATED = {
    *("instructions", "previous_response_id", "temperature", "top_p", "max_output_tokens", "tools"),
    *("tool_choice", "text", "reasoning", "parallel_tool_calls", "metadata"),
}
TEXTS = ("input_text", "output_text", "reasoning_text", "summary_text", "text")


class ItemPart(Said):
    type: str
    text: str = ""

    @field_validator("type")
    @classmethod
    def _is_text(cls, value: str) -> str:
        if value not in TEXTS:
            raise ValueError(
                f"this server accepts only content of the types {', '.join(TEXTS)}, got {value!r:.40}"
            )
        return value


def _as_items(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


TextOrParts = BeforeValidator(as_parts, json_schema_input_type=str | list[ItemPart])
Content = Annotated[list[ItemPart], TextOrParts]
ITEMS = ("message", "function_call", "function_call_output", "reasoning", "item_reference")


class Item(Said):
    """One item of a request's input: a message, a tool call, the result of a tool call, a thought, or the id
    of a stored item.
    """

    type: str = "message"
    id: str = ""
    role: Literal["user", "assistant", "system", "developer"] = "user"
    content: Content | None = None
    summary: list[ItemPart] | None = None
    call_id: str = ""
    name: str = ""
    namespace: str | None = None
    arguments: str = ""
    output: Content | None = None

    @field_validator("type")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in ITEMS:
            raise ValueError(
                f"this server accepts only items of the types {', '.join(ITEMS)}, got {value!r:.40}"
            )
        return value


class FunctionTool(Function):
    type: str

    @field_validator("type")
    @classmethod
    def _is_function(cls, value: str) -> str:
        if value != "function":
            raise ValueError(
                f"this server accepts only tools of type 'function', got {value!r:.40}: remove this tool"
            )
        return value

    @property
    def functions(self) -> dict[str, dict[str, Any]]:
        """A dict with one entry: this function, by its name. A `Namespace` has a property of the same
        form.
        """
        return {self.name: self.model_dump(exclude={"type"})}


class Namespace(Said):
    """A group of functions. To call a function, the model writes the group's name, two underscores and the
    function's name.
    """

    type: Literal["namespace"]
    name: str
    description: str | None = None  # of all of them
    tools: Annotated[list[FunctionTool], Field(max_length=128)]

    @property
    def functions(self) -> dict[str, dict[str, Any]]:
        return {
            _joined(self.name, name): {**stated, "name": _joined(self.name, name)}
            for tool in self.tools
            for name, stated in tool.functions.items()
        }


def _joined(namespace: str | None, name: str) -> str:
    return f"{namespace}__{name}" if namespace else name


def _kind(tool: Any) -> str:
    stated = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "namespace" if stated == "namespace" else "function"


AnyTool = Annotated[
    Annotated[FunctionTool, Tag("function")] | Annotated[Namespace, Tag("namespace")], Discriminator(_kind)
]


class Named(Part):
    type: Literal["function"]
    name: str


class Allowed(Part):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[Named], Field(min_length=1, max_length=128)]


class SchemaFormat(NamedSchema):
    type: Literal["json_schema"]


class TextOptions(Part):
    format: Annotated[TextFormat | JsonObject | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Part):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None  # thoughts are given whole
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(Part):
    include_obfuscation: bool | None = None  # noise beside the text, which clients pass over


TextOrItems = BeforeValidator(_as_items, json_schema_input_type=str | list[Item])


class ResponsesBody(stating(Harmless, "temperature", "top_p")):
    """The body of a request to `/v1/responses`. A field that requires OpenAI's own tools or state stored at
    OpenAI is refused.
    """

    input: Annotated[list[Item], TextOrItems, Field(min_length=1)]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: Count | None = None
    tools: Annotated[list[AnyTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Named | Allowed | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    # Thoughts aren't encrypted here.
    include: list[Literal["reasoning.encrypted_content", "message.output_text.logprobs"]] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    client_metadata: Any = None  # who asks, as Codex says it

    @property
    def namespaces(self) -> dict[str, str]:
        """A dict from the name by which the model calls a function to the name of the function's group."""
        spaces = [tool for tool in self.tools or () if isinstance(tool, Namespace)]
        return {name: space.name for space in spaces for name in space.functions}

    def chat(self, messages: list[dict[str, Any]]) -> ChatBody:
        """Convert the request to a request of `/v1/chat/completions` with these messages."""
        stated: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "continue_final_message": False,
            **sampling_of(self),
            "max_tokens": self.max_output_tokens,
            "parallel_tool_calls": self.parallel_tool_calls,
            "logprobs": "message.output_text.logprobs" in (self.include or ())
            or self.top_logprobs is not None,
            "top_logprobs": self.top_logprobs,
            "reasoning_effort": self.reasoning and self.reasoning.effort,
            "tool_choice": _choice(self.tool_choice),
        }
        if self.tools:
            stated["tools"] = [
                _function(function) for tool in self.tools for function in tool.functions.values()
            ]
        match self.text and self.text.format:
            case SchemaFormat() as format:
                schema = format.model_dump(by_alias=True, exclude={"type"})
                stated["response_format"] = {"type": "json_schema", "json_schema": schema}
            case JsonObject():
                stated["response_format"] = {"type": "json_object"}
        return checked(ChatBody, stated)


def _function(stated: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": stated}


def _choice(stated: str | Named | Allowed | None) -> Any:
    match stated:
        case Named(name=name):
            return _function({"name": name})
        case Allowed(mode=mode, tools=tools):
            allowed = {"mode": mode, "tools": [_function({"name": tool.name}) for tool in tools]}
            return {"type": "allowed_tools", "allowed_tools": allowed}
        case _:
            return stated


def _text(parts: list[ItemPart] | None) -> str:
    return "".join(part.text for part in parts or ())


def messages_of(items: list[Item]) -> list[dict[str, Any]]:
    """Convert items to the messages of a chat. Consecutive thoughts, texts and tool calls become one
    assistant message.
    """
    messages: list[dict[str, Any]] = []
    for item in items:
        match item.type:
            case "message" if item.role == "assistant":
                _turn(messages, "content", "tool_calls")["content"] = _text(item.content)
            case "message":
                messages.append({"role": item.role, "content": _text(item.content)})
            case "reasoning":
                thoughts = _text(item.content) or _text(item.summary)
                _turn(messages, "content", "tool_calls", "reasoning_content")["reasoning_content"] = thoughts
            case "function_call":
                name = _joined(item.namespace, item.name)
                call = _function({"name": name, "arguments": item.arguments})
                _turn(messages).setdefault("tool_calls", []).append({"id": item.call_id, **call})
            case "function_call_output":
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
    return messages


def _turn(messages: list[dict[str, Any]], *without: str) -> dict[str, Any]:
    """Return the assistant's message at the end of `messages`. Append a new one if there is none, or if it
    already has one of these fields.
    """
    if not messages or messages[-1]["role"] != "assistant" or messages[-1].keys() & set(without):
        messages.append({"role": "assistant"})
    return messages[-1]


@taking(ResponsesBody)
async def create_response(request: Request, body: ResponsesBody) -> Response:
    """`POST /v1/responses`: answer a chat."""
    server = server_of(request)
    kept, owner = server.responses, owner_of(request)
    before = kept.conversation(owner, body.previous_response_id) if body.previous_response_id else []
    items = [*map(Item.model_validate, before), *body.input]
    items = [
        Item.model_validate(kept.item(owner, item.id)) if item.type == "item_reference" else item
        for item in items
    ]
    said = [{"role": "system", "content": body.instructions}] if body.instructions else []
    chat = await begin_chat(request, body.chat(joined_users(joined_systems([*said, *messages_of(items)]))))
    store = body.store is not False and kept.limit > 0
    repeated = body.model_dump(include=REPEATED, by_alias=True)
    told = {field: value for field, value in repeated.items() if value is not None}
    made = Made(chat, body.namespaces, store=store, **told)
    note(request, chat.served, made.id, chat.prompt_tokens)

    async def events() -> AsyncIterator[dict[str, Any]]:
        async for event in made.events():
            yield event
        if store:
            kept.keep(owner, made.response, [item.model_dump(exclude_none=True) for item in items])

    if body.stream:
        return EventStream(chat.answers, named_events(events(), made.failed))
    with chat.answers:
        return JSONResponse(await while_connected(request, _response(events())))


async def _response(events: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    """Return the answer that the last event contains."""
    *_, last = [event async for event in events]
    return last["response"]


async def one_response(request: Request) -> Response:
    """`GET` and `DELETE /v1/responses/ID`: return or delete a stored answer."""
    kept, owner, id = server_of(request).responses, owner_of(request), request.path_params["id"]
    if request.method == "GET":
        return JSONResponse(kept.response(owner, id))
    kept.delete(owner, id)
    return JSONResponse({"id": id, "object": "response", "deleted": True})
