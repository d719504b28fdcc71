"""Answer `/v1/messages`, Anthropic's API for chats: the request's blocks become messages for the model, and
the model's answer becomes blocks.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .chat import joined_systems, joined_users, named_events
from .errors import body_of
from .message_blocks import Made
from .openapi import taking
from .requests import Body, ChatBody, Count, Part, Said, Stop, as_parts, checked, sampling_of, stating
from .texts import EventStream, begin_chat, note, question, while_connected

OWN = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}


def _blocks_of(kind: type[Part]) -> BeforeValidator:
    """Return a validator that also accepts a text in place of a list with one block."""
    return BeforeValidator(as_parts, json_schema_input_type=str | list[kind])


class TextBlock(Said):
    type: Literal["text"]
    text: str


class Block(Said):
    """A part of a message. The server ignores its `cache_control` and citations, so the model doesn't see
    them.
    """

    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, Any] = Field(default_factory=dict)
    tool_use_id: str = ""
    content: Annotated[list[TextBlock], _blocks_of(TextBlock)] | None = None

    @field_validator("type")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if not any(value in own for own in OWN.values()):
            raise ValueError(f"this server doesn't support content of type {value!r:.40}")
        return value


class Message(Said):
    role: Literal["user", "assistant", "system"]
    content: Annotated[list[Block], _blocks_of(Block)]

    @model_validator(mode="after")
    def _has_its_own(self) -> Message:
        for block in self.content:
            if block.type not in OWN[self.role]:
                raise ValueError(
                    f"a message with the role {self.role} can't contain content of type {block.type}"
                )
        return self


class Tool(Said):
    type: str | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any] = Field(default_factory=dict)
    strict: bool | None = None

    @field_validator("type")
    @classmethod
    def _is_custom(cls, value: str | None) -> str | None:
        if value not in (None, "custom"):
            raise ValueError(
                f"this server doesn't support tools of type {value!r:.40}: remove this tool, or give it "
                "an input_schema"
            )
        return value


class ToolChoice(Part):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Part):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Count | None = None
    display: str | None = None  # they are given whole


class OutputFormat(Part):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Part):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Edit(Said):
    type: Literal["clear_thinking_20251015"]  # which thoughts are shown again is the template's choice


class ContextManagement(Part):
    edits: list[Edit] = Field(default_factory=list)


class CountBody(Body):
    """The fields of a request to `/v1/messages` that determine its prompt."""

    messages: Annotated[list[Message], Field(min_length=1)]
    system: Annotated[list[TextBlock], _blocks_of(TextBlock)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    context_management: ContextManagement | None = None
    cache_control: Any = None

    def chat(self, **sampling: Any) -> ChatBody:
        """Convert the request to a request of `/v1/chat/completions`. `sampling` are additional fields of
        that request.
        """
        system = "\n\n".join(block.text for block in self.system or ())
        said = [{"role": "system", "content": system}] if system else []
        made = joined_systems([*said, *(made for one in self.messages for made in _messages(one))])
        # Most templates take what system says at the beginning alone.
        asked = [
            {**one, "role": "user"} if i and one["role"] == "system" else one for i, one in enumerate(made)
        ]
        stated: dict[str, Any] = {
            "model": self.model,
            "messages": joined_users(asked),
            **sampling,
        }
        if self.tools:
            stated["tools"] = [_function(tool) for tool in self.tools]
        if self.thinking is not None:
            stated["thinking_token_budget"] = self.thinking.budget_tokens
        if (choice := self.tool_choice) is not None:
            named = {"type": "function", "function": {"name": choice.name}}
            stated["tool_choice"] = {"any": "required", "tool": named}.get(choice.type, choice.type)
            stated["parallel_tool_calls"] = False if choice.disable_parallel_tool_use else None
        if self.output_config is not None and (form := self.output_config.format) is not None:
            schema = {"name": "answer", "schema": form.schema_}
            stated["response_format"] = {"type": "json_schema", "json_schema": schema}
        return checked(ChatBody, stated)

    @property
    def thinks(self) -> bool | str | None:
        """The request's setting for thoughts: False, True or an effort such as "high". None means the model's
        own default.
        """
        if self.thinking is not None and self.thinking.type == "disabled":
            return False
        effort = self.output_config and self.output_config.effort
        return effort or (True if self.thinking is not None else None)


class MessagesBody(stating(CountBody, "temperature", "top_k", "top_p")):
    max_tokens: Count
    stream: bool | None = None
    stop_sequences: Annotated[list[Stop], Field(max_length=4)] | None = None
    metadata: dict[str, Any] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


def _function(tool: Tool) -> dict[str, Any]:
    stated = {"name": tool.name, "description": tool.description, "strict": tool.strict}
    return {"type": "function", "function": {**stated, "parameters": tool.input_schema}}


def _messages(message: Message) -> list[dict[str, Any]]:
    """Convert a message of this API to messages of a chat. Each result of a tool call becomes its own
    message.
    """
    if message.role == "assistant":
        return [_answer(message.content)]
    made: list[dict[str, Any]] = []
    for block in message.content:
        if block.type == "tool_result":
            text = "".join(part.text for part in block.content or ())
            made.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": text})
        elif made and made[-1]["role"] == message.role:
            made[-1]["content"] += block.text
        else:
            made.append({"role": message.role, "content": block.text})
    return made


def _answer(blocks: list[Block]) -> dict[str, Any]:
    made: dict[str, Any] = {"role": "assistant", "content": "".join(block.text for block in blocks)}
    made["reasoning_content"] = "".join(block.thinking for block in blocks) or None
    calls = [block for block in blocks if block.type == "tool_use"]
    if calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.input, ensure_ascii=False)},
            }
            for call in calls
        ]
    return made


@taking(MessagesBody)
async def create_message(request: Request, body: MessagesBody) -> Response:
    """`POST /v1/messages`: answer a chat."""
    stated = body.chat(
        max_tokens=body.max_tokens,
        stop=body.stop_sequences or None,
        **sampling_of(body),
    )
    chat = await begin_chat(request, stated, body.thinks)
    made = Made(chat, body.stop_sequences or [])
    note(request, chat.served, made.message["id"], chat.prompt_tokens)
    if body.stream:
        return EventStream(chat.answers, named_events(made.events(), body_of))
    with chat.answers:
        return JSONResponse(await while_connected(request, made.whole()))


@taking(CountBody)
async def count_tokens(request: Request, body: CountBody) -> Response:
    """`POST /v1/messages/count_tokens`: return how many tokens the prompt of a request has."""
    asked = await question(request, body.chat(), body.thinks)
    return JSONResponse({"input_tokens": len(asked.prompt.ids)})
