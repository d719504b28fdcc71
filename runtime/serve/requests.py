"""Define the bodies of requests: their fields, and the allowed values of each field. An unknown field is an
error, because otherwise tfm would silently ignore it.

Some known fields ask for something that tfm doesn't support. Such a field is accepted only with a value
that has no effect (`Harmless`).
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from starlette.requests import Request as HttpRequest

from ...refimpl.checkpoint.formats.strict_json import parse
from ...refimpl.decoding.options import SamplingOptions, options
from ..tasks.options import GenerateOptions
from .errors import RequestError
from .form import boundary_of, parse_form
from .limits import Limits

B = TypeVar("B", bound="Body")

MOST_ANSWERS = 8
MOST_LOGPROBS = 20
MOST_STOPS = 4
MOST_TEXTS = 2048
MOST_CHOICES = 1000
MOST_TOKENS = 2**31 - 1

# Fields that servers and clients put beside a message for themselves.
NOTES = frozenset({"annotations", "cache_control", "provider_specific_fields"})
# Fields of an answer that ask for something that isn't done: to go on with it, or to use what it refers to.
ASKS = frozenset({"audio", "function_call", "partial", "prefix"})

# Headers, one of which each browser of the last six years sends beside a body.
OF_BROWSERS = frozenset({"origin", "sec-fetch-site", "sec-fetch-mode", "referer"})

Text = Annotated[str, Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Count = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
# -1 is no limit: what a context has room for is less.
Limit = Annotated[
    Count,
    BeforeValidator(
        lambda value: MOST_TOKENS if value == -1 else value, json_schema_input_type=Count | Literal[-1]
    ),
]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Part(BaseModel):
    """A JSON object that may have only these fields. An unknown field is accepted only if its value is null,
    because null has no effect.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {key: item for key, item in value.items() if item is not None or key in known}


def as_parts(value: Any) -> Any:
    """Return a text as a list with one part, and any other value unchanged."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class Said(Part):
    """A part of an earlier answer that a client sends back. Unknown fields are ignored, because another
    server may have added fields to the answer.
    """

    model_config = ConfigDict(extra="ignore")


class Body(Part):
    """The fields that every request may have."""

    model: str = ""  # the only one that is served
    user: str | None = None  # who asks; tfm keeps nothing of anyone


class Harmless(Body):
    """Fields of the OpenAI API that have no effect in tfm. Each is accepted only with values that are
    harmless to ignore.
    """

    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class StreamOptions(Part):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class StructuredOutputs(Part):
    """What the answer must match, in the format of vLLM's `structured_outputs`: a regular expression, one of
    several choices, a grammar or a JSON schema. A request sets exactly one of these fields.
    """

    json_: Annotated[dict[str, Any] | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[Text], Field(min_length=1, max_length=MOST_CHOICES)] | None = None
    grammar: str | None = None

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        if sum(value is not None for value in (self.json_, self.regex, self.choice, self.grammar)) != 1:
            raise ValueError("the object must have exactly one of the fields json, regex, choice and grammar")
        return self

    def constraint(self) -> GenerateOptions:
        """Return the generation option that makes the text follow this language."""
        if self.choice is not None:
            return {"regex": "|".join(map(re.escape, self.choice))}
        stated: GenerateOptions = {"json_schema": self.json_, "regex": self.regex, "grammar": self.grammar}
        return stated


# The options that requests may state, by the names that they have in Python too.
SENT = {name: option for name, option in options(SamplingOptions).items() if option.requests}


def stating(kind: type[B], *names: str) -> type[B]:
    """Return a subclass of `kind` that has the options with these names as additional fields. If a field is
    null, the model's own default applies.
    """
    sent = [(name, SENT[name]) for name in names]
    fields: Any = {name: (Annotated[one.type, Field(**one.requests)], None) for name, one in sent}
    return create_model(kind.__name__, __base__=kind, **fields)


def sampling_of(body: Body) -> dict[str, Any]:
    """Return the sampling options of a body, by name. An option that the body doesn't state is None."""
    return {name: getattr(body, name) for name in SENT if name in type(body).model_fields}


class Sampling(stating(Harmless, *SENT)):
    """The fields that say how a text is generated. If a field is missing or null, the model's own default
    applies.
    """

    store: Literal[False] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | list[Stop] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=300)] | None = None
    max_tokens: Limit | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    structured_outputs: StructuredOutputs | None = None
    grammar: str | None = None  # as llama.cpp's server has it

    @field_validator("stop", mode="before")
    @classmethod
    def _few(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) > MOST_STOPS:
            raise ValueError(f"the list of stop texts may have at most {MOST_STOPS} texts, got {len(value)}")
        return value

    @model_validator(mode="after")
    def _streams(self) -> Sampling:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        if self.grammar is not None and self.structured_outputs is not None:
            raise ValueError("structured_outputs and `grammar` can't be combined: give only one field")
        return self

    def constraint(self) -> GenerateOptions:
        """Return the generation option that makes the text follow a formal language, or an empty dict if the
        request names no language.
        """
        if self.structured_outputs is not None:
            return self.structured_outputs.constraint()
        return {} if self.grammar is None else {"grammar": self.grammar}


class TextPart(Said):
    type: Literal["text"]
    text: str


class CalledFunction(Said):
    name: str
    arguments: str


class Call(Said):
    """A tool call in an earlier answer of the model."""

    id: str
    type: Literal["function"]
    function: CalledFunction

    def for_template(self) -> dict[str, Any]:
        """Return the tool call in the form that chat templates read, with its arguments as an object."""
        arguments = parse(self.function.arguments.strip() or "{}", "arguments of a call", RequestError)
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.function.name, "arguments": arguments},
        }


class Message(Part):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None  # what the model thought; its template may show it again

    @model_validator(mode="before")
    @classmethod
    def _as_it_came(cls, value: Any) -> Any:
        """Remove the fields that servers add to an answer. Fields that ask for something stay, so that they
        are refused.
        """
        if not isinstance(value, dict):
            return value
        asks = ASKS if value.get("role") == "assistant" else value.keys() - NOTES
        return {key: item for key, item in value.items() if key in cls.model_fields or key in asks}

    @field_validator("content", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        for part in value if isinstance(value, list) else ():
            if isinstance(part, dict) and part.get("type") != "text":
                raise ValueError(
                    f"this server accepts only content of type 'text', got {part.get('type')!r:.40}"
                )
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError("only an assistant's message can have tool_calls")
        if self.reasoning_content is not None and self.role != "assistant":
            raise ValueError("only an assistant's message can have reasoning_content")
        if self.content is None and not self.tool_calls and self.reasoning_content is None:
            raise ValueError("a message must have content")
        return self

    @property
    def text(self) -> str:
        """The content as one text. A list of texts is concatenated."""
        content = self.content
        return content if isinstance(content, str) else "".join(part.text for part in content or ())

    def for_template(self) -> dict[str, Any]:
        """Return the message in the form that chat templates read."""
        made: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.tool_calls:
            made["tool_calls"] = [call.for_template() for call in self.tool_calls]
        others = {name: getattr(self, name) for name in ("name", "tool_call_id", "reasoning_content")}
        return made | {name: value for name, value in others.items() if value is not None}


class Function(Said):
    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Said):
    type: Literal["function"]
    function: Function

    def as_stated(self) -> dict[str, Any]:
        """Return the tool as JSON, without the fields that are null."""
        return {"type": "function", "function": self.function.model_dump(exclude_none=True)}


class NamedFunction(Part):
    name: str


class ToolChoice(Part):
    type: Literal["function"]
    function: NamedFunction


class Allowed(Part):
    mode: Literal["auto", "required"]
    tools: Annotated[list[ToolChoice], Field(min_length=1, max_length=128)]


class AllowedTools(Part):
    """A choice of tools: the model sees all tools of the request, but may call only the tools listed here."""

    type: Literal["allowed_tools"]
    allowed_tools: Allowed


class TextFormat(Part):
    type: Literal["text"]


class JsonObject(Part):
    type: Literal["json_object"]


class NamedSchema(Part):
    name: str
    description: str | None = None
    strict: bool | None = None  # a schema is always followed in full
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OfSchema(Part):
    type: Literal["json_schema"]
    json_schema: NamedSchema


Format = Annotated[TextFormat | JsonObject | OfSchema, Field(discriminator="type")]


class ChatBody(Sampling):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Limit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    response_format: Format | None = None
    modalities: list[Literal["text"]] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    # As vLLM has them: variables of the template, whether the last message goes on or another one begins,
    # and how many tokens thoughts may have.
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    thinking_token_budget: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if None not in (self.max_tokens, self.max_completion_tokens) and (
            self.max_tokens != self.max_completion_tokens
        ):
            raise ValueError(
                "max_tokens and max_completion_tokens contradict each other: give only one field"
            )
        if self._json_schema() is not None and super().constraint():
            raise ValueError(
                "response_format can't be combined with structured_outputs or `grammar`: give only one field"
            )
        if self.continue_final_message and not self.continues:
            raise ValueError("continue_final_message needs a last message with the role assistant and a text")
        if self.add_generation_prompt is False and not self.continues:
            raise ValueError(
                "add_generation_prompt: false needs a last message with the role assistant and a text"
            )
        if self.continues and self.constraint():
            raise ValueError(
                "continue_final_message can't be combined with response_format, structured_outputs or grammar"
            )
        self._check_tools()
        return self

    @property
    def continues(self) -> bool:
        """True if the answer continues the last message, which must be the assistant's, instead of beginning
        a new message.
        """
        last = self.messages[-1]
        goes_on = self.continue_final_message is not False and not self.add_generation_prompt
        return goes_on and last.role == "assistant" and bool(last.text) and not last.tool_calls

    def _check_tools(self) -> None:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("tools: each function must have a name of its own")
        if not names and self.tool_choice not in (None, "none", "auto"):
            raise ValueError("tool_choice needs the field `tools`, which is missing or empty")
        for name in self._chosen():
            if name not in names:
                raise ValueError(f"tool_choice must be a function in `tools`, got {name!r:.80}")
        if self.must_call and self.stop:
            raise ValueError("`stop` can't be combined with a tool_choice that requires a call")

    @property
    def must_call(self) -> bool:
        """True if the answer must be a tool call."""
        match self.tool_choice:
            case AllowedTools(allowed_tools=allowed):
                return allowed.mode == "required"
            case choice:
                return choice == "required" or isinstance(choice, ToolChoice)

    def _chosen(self) -> list[str]:
        """Return the names of the tools that `tool_choice` lists."""
        match self.tool_choice:
            case ToolChoice(function=function):
                return [function.name]
            case AllowedTools(allowed_tools=allowed):
                return [tool.function.name for tool in allowed.tools]
            case _:
                return []

    def offered(self) -> list[Tool]:
        """Return the tools that the answer may call."""
        chosen = self._chosen()
        tools = [] if self.tool_choice == "none" else list(self.tools or ())
        return [tool for tool in tools if not chosen or tool.function.name in chosen]

    def shown(self) -> list[Tool]:
        """Return the tools that the model sees in its prompt."""
        return list(self.tools or ()) if isinstance(self.tool_choice, AllowedTools) else self.offered()

    def constraint(self) -> GenerateOptions:
        """Return the generation option that makes the answer follow a formal language, or an empty dict if
        the request names no language.
        """
        schema = self._json_schema()
        return super().constraint() if schema is None else {"json_schema": schema}

    def _json_schema(self) -> dict[str, Any] | None:
        match self.response_format:
            case JsonObject():
                return {"type": "object"}
            case OfSchema(json_schema=named):
                return named.schema_
            case _:
                return None


class CompletionBody(Sampling):
    prompt: Text | TokenIds | Annotated[list[Text] | list[TokenIds], Field(min_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    echo: bool | None = None
    suffix: None = None
    best_of: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _best(self) -> CompletionBody:
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of must equal `n`, because this server returns all answers")
        if self.echo and self.stream:
            raise ValueError("`echo` needs stream: false")
        return self

    def prompts(self) -> list[str | list[int]]:
        """Return the list of prompts. Each prompt is a text or a list of token ids."""
        prompt: Any = self.prompt
        several = isinstance(prompt, list) and not isinstance(prompt[0], int)
        return prompt if several else [prompt]


async def read(request: HttpRequest, kind: type[B], limits: Limits) -> B:
    """Read the JSON body of a request and validate it as an instance of `kind`.

    Raises RequestError if the body is too large, arrives too slowly or isn't valid.
    """
    kind_of_body = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind_of_body != "application/json" and OF_BROWSERS.intersection(request.headers):
        # Any page may send other types here without asking, but not without a browser's headers; `curl -d`
        # has none of these, and the type of a form.
        raise RequestError("the content-type must be application/json", status=415)
    return checked(kind, parse(await _received(request, limits, limits.body), "the body", RequestError))


async def read_form(request: HttpRequest, kind: type[B], limits: Limits) -> B:
    """Read a form with a file and validate it as an instance of `kind`.

    Raises RequestError if the form is too large, arrives too slowly, isn't valid, or comes from a web page
    of another server. A browser lets any page send a form to any address, so a form from a browser must
    come from this server's own page. Browsers are recognized by their headers, but not by sec-fetch-mode,
    because Node's fetch sends that header too.
    """
    if (OF_BROWSERS - {"sec-fetch-mode"}).intersection(request.headers) and request.headers.get(
        "sec-fetch-site"
    ) != "same-origin":
        raise RequestError("pages from other origins can't send forms to this server", status=403)
    boundary = boundary_of(request.headers.get("content-type", ""))
    return checked(kind, parse_form(await _received(request, limits, limits.sound), boundary))


async def _received(request: HttpRequest, limits: Limits, most: int) -> bytes:
    """Return the body of a request. Raises RequestError if the body has more than `most` bytes, or arrives
    too slowly.
    """
    received = bytearray()
    try:
        async with asyncio.timeout(limits.read_s):
            async for chunk in request.stream():
                received += chunk
                if len(received) > most:
                    raise RequestError(
                        f"the request's body may have at most {most} bytes, but it has more", status=413
                    )
    except TimeoutError:
        raise RequestError(f"the request's body must arrive within {limits.read_s:g} s", status=408) from None
    return bytes(received)


# What llama.cpp, ollama and transformers call fields of requests.
ALSO = {
    **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens"), "max_tokens"),
    "repeat_penalty": "repetition_penalty",
}


def checked(kind: type[B], value: Any) -> B:
    """Validate a value as an instance of `kind` and return the instance. Raises RequestError with the name of
    the wrong field.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        param = str(first["loc"][0]) if first["loc"] else None
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            meant = ALSO.get(where, "")
            what = f"did you mean {meant}?" if meant in kind.model_fields else "remove this field"
            reason = f"unknown field, which this server doesn't support: {what}"
        raise RequestError(f"{where:.200}: {reason}" if where else reason, param=param) from None
