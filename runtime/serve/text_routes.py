"""Answer the routes for a model's tokenizer and chat template (`/tokenize`, `/detokenize`,
`/apply-template`), and `/props`."""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse

from .models import Served, server_of
from .openapi import of_model, taking
from .requests import Body, ChatBody, TokenIds
from .texts import check_ids, question


class TokenizeBody(Body):
    """A request to tokenize a text. llama.cpp's server calls the text `content`, and vLLM calls it
    `prompt`.
    """

    content: str | None = None
    prompt: str | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None

    @model_validator(mode="after")
    def _one(self) -> TokenizeBody:
        if (self.content is None) == (self.prompt is None):
            raise ValueError("the request must have exactly one of the fields content and prompt")
        return self


class DetokenizeBody(Body):
    tokens: Annotated[TokenIds, Field(max_length=2**17)]


@taking(TokenizeBody)
async def tokenize(request: Request, body: TokenizeBody) -> JSONResponse:
    """`POST /tokenize`: return the token ids of a text. The name of a control token in the text counts as
    plain text.
    """
    served = await server_of(request).use(request, body.model)
    text = body.content if body.prompt is None else body.prompt
    special = bool(body.add_special or body.add_special_tokens)
    encode = served.model.model.text.encode
    ids = await asyncio.to_thread(encode, text or "", add_special_tokens=special)
    return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": served.context})


@taking(DetokenizeBody)
async def detokenize(request: Request, body: DetokenizeBody) -> JSONResponse:
    """`POST /detokenize`: return the text of token ids, with the names of control tokens."""
    served = await server_of(request).use(request, body.model)
    check_ids(body.tokens, served.model.model.config.embedding.vocabulary, "tokens")
    tokenizer = served.model.model.text
    control = frozenset(tokenizer.control_tokens.values())
    text = await asyncio.to_thread(tokenizer.decode, body.tokens, control)
    return JSONResponse({"content": text, "prompt": text})


@taking(ChatBody)
async def apply_template(request: Request, body: ChatBody) -> JSONResponse:
    """`POST /apply-template`: return the prompt that a chat request would give to the model."""
    asked = await question(request, body)
    tokenizer = asked.served.model.model.text
    text = tokenizer.decode(asked.prompt.ids, frozenset(tokenizer.control_tokens.values()))
    return JSONResponse({"prompt": text, "tokens": len(asked.prompt.ids)})


@of_model
def props(request: Request, served: Served) -> JSONResponse:
    """`GET /props?model=NAME`: describe the model and its settings, as llama.cpp's server does."""
    server = server_of(request)
    return JSONResponse(
        {
            "model_alias": served.name,
            "total_slots": server.slots,
            "default_generation_settings": {"n_ctx": served.context},
            "models": list(server.models),
        }
    )
