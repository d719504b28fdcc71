"""The bodies of requests: their fields with closed ranges, and nothing else.

A field that changes nothing at its value is taken at that value alone (`Harmless`); an unknown field is an
error, because it would be ignored.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request as HttpRequest

from ...refimpl.formats.strict_json import parse
from .errors import RequestError
from .limits import Limits

B = TypeVar("B", bound="Body")

MOST_ANSWERS = 8
MOST_LOGPROBS = 20
MOST_TEXTS = 2048
MOST_TOKENS = 2**31 - 1

Text = Annotated[str, Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Share = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Count = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Part(BaseModel):
    """A JSON object with these fields and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Body(Part):
    """What each request has."""

    model: str
    user: str | None = None  # who asks; tfm keeps nothing of anyone


class Harmless(Body):
    """Fields of the OpenAI API that change nothing at these values; at others each is an error."""

    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class StreamOptions(Part):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class Sampling(Harmless):
    """How a text is generated; what is left out, or null, is as the model asks."""

    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Share | None = None
    top_k: Count | None = None
    min_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=300)] | None = None
    max_tokens: Count | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _streams(self) -> Sampling:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream: true")
        return self


class TextPart(Part):
    type: Literal["text"]
    text: str


class Message(Part):
    """A message of a conversation; a list of texts is their concatenation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: None = None

    def for_template(self) -> dict[str, str]:
        """The message as a template reads it."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        role = "system" if self.role == "developer" else self.role
        named = {} if self.name is None else {"name": self.name}
        return {"role": role, "content": content, **named}


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
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    response_format: Format | None = None
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _fits(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs goes with logprobs: true")
        if None not in (self.max_tokens, self.max_completion_tokens) and (
            self.max_tokens != self.max_completion_tokens
        ):
            raise ValueError("max_tokens and max_completion_tokens contradict each other: give one")
        return self

    def json_schema(self) -> dict[str, Any] | None:
        """The schema that the answer follows, if it is JSON."""
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
    echo: Literal[False] | None = None
    suffix: None = None
    best_of: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _best(self) -> CompletionBody:
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of must be n: all answers are given")
        return self

    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or ids."""
        prompt: Any = self.prompt
        several = isinstance(prompt, list) and not isinstance(prompt[0], int)
        return prompt if several else [prompt]


async def read(request: HttpRequest, kind: type[B], limits: Limits) -> B:
    """The body of a request; RequestError for one that is too large, too slow, or not of this kind."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # Any page of a browser may send other types here without asking.
        raise RequestError("the content-type must be application/json", status=415)
    received = bytearray()
    try:
        async with asyncio.timeout(limits.read_s):
            async for chunk in request.stream():
                received += chunk
                if len(received) > limits.body:
                    raise RequestError(f"the body may have {limits.body} bytes, it has more", status=413)
    except TimeoutError:
        raise RequestError(f"the body took more than {limits.read_s:g} s", status=408) from None
    try:
        return kind.model_validate(parse(bytes(received), "the body", RequestError))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        param = str(first["loc"][0]) if first["loc"] else None
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            reason = "this field isn't known here, so it would be ignored: leave it out"
        raise RequestError(f"{where:.200}: {reason}" if where else reason, param=param) from None
