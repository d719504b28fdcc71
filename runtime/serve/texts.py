"""Answer the routes that generate texts: `/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ...refimpl.config import LM, Decoder
from ..tasks.generate import Prompt, prompt_of
from ..tasks.options import resolve
from .answers import Answers
from .chat import Chat
from .errors import RequestError, body_of
from .models import Served, owner_of, server_of
from .openapi import taking
from .options import options_of
from .request_log import record_of
from .requests import ChatBody, CompletionBody, Sampling
from .responses import DONE, ChatResponse, CompletionResponse, Echo, event, usage
from .tools import Tools, effort, wished

R = TypeVar("R")

SSE = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class EventStream(StreamingResponse):
    """A response that streams answers as events or as lines. The answers' slots are freed when the stream
    ends, even if an error ends the stream.
    """

    def __init__(
        self,
        answers: AbstractContextManager[Any],
        events: AsyncIterator[str],
        media_type: str = "text/event-stream",
    ) -> None:
        super().__init__(events, media_type=media_type, headers=SSE)
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._answers:
            await super().__call__(scope, receive, send)


class Question(NamedTuple):
    """The prompt of a chat request, with the model that answers and the tools that the answer may call."""

    served: Served
    tools: Tools
    prompt: Prompt


@taking(ChatBody)
async def chat_completions(request: Request, body: ChatBody) -> Response:
    """`POST /v1/chat/completions`: answer a chat."""
    chat = await begin_chat(request, body)
    served = chat.served
    made = ChatResponse(served.name, served.fingerprint, served.model.model.text, chat.tools)
    return await _respond(request, served, body, chat.answers, made, chat.prompt_tokens)


async def begin_chat(request: Request, body: ChatBody, thinks: bool | str | None = None) -> Chat[Tools]:
    """Queue the answers to a chat request.

    `thinks` switches thoughts on or off, or sets their effort, if it isn't None (`tools.wished`).
    """
    server = server_of(request)
    served, tools, asked = await question(request, body, thinks)
    model = served.model.model
    stated = resolve(model.generation, chat=True, **options_of(body, model))
    prompt, options = tools.begin(asked, stated)
    await while_connected(request, served.model.prepare(options))
    streams = served.model.start(prompt, options, body.n or 1, owner_of(request))
    answers = Answers(streams, served.name, server.metrics, server.limits, record_of(request))
    return Chat(served, tools, answers, len(prompt.ids))


async def question(request: Request, body: ChatBody, thinks: bool | str | None = None) -> Question:
    """Load the model that a chat request names, and make the prompt.

    `thinks` switches thoughts on or off, or sets their effort, if it isn't None (`tools.wished`).
    """
    served = await server_of(request).use(request, body.model)
    model = served.model.model
    served.expect(LM, "generate texts")
    if not isinstance(model.config, Decoder):
        raise RequestError(
            f"the model {served.name} has an encoder, so it can't chat: send the text to /v1/completions",
            param="model",
        )
    _check_room(served, body.n or 1)
    # What a template says of calls takes some renderings, once.
    await asyncio.to_thread(lambda: model.chat_template.answers)
    tools = Tools(body, served)
    messages, shown = tools.asked([message.for_template() for message in body.messages])
    template = model.chat_template
    variables = {
        **wished(thinks, template),
        **effort(body, template),
        **(body.chat_template_kwargs or {}),
    }
    ask = served.model.chat_prompt(messages, shown, variables, continued=body.continues)
    return Question(served, tools, await ask)


class Continuing(NamedTuple):
    """The prompts that a model continues, and the answers that continue these prompts."""

    served: Served
    stated: list[str | list[int]]
    answers: Answers
    prompt_tokens: int


@taking(CompletionBody)
async def completions(request: Request, body: CompletionBody) -> Response:
    """`POST /v1/completions`: continue texts or token ids. If the model has an encoder, the encoder reads the
    texts."""
    served, stated, answers, tokens = await begin_texts(request, body)
    count = body.n or 1
    echoes = [
        Echo(_text(served, stated[i // count]), stream.prompt[0], stream.prompt_logprobs)
        for i, stream in enumerate(answers.streams)
    ]
    text = served.model.model.text
    made = CompletionResponse(served.name, served.fingerprint, text, echoes if body.echo else ())
    return await _respond(request, served, body, answers, made, tokens)


async def begin_texts(request: Request, body: CompletionBody) -> Continuing:
    """Queue the texts that continue a request's prompts."""
    server = server_of(request)
    served = await server.use(request, body.model)
    model = served.model.model
    served.expect(LM, "generate texts")
    stated = body.prompts()
    _check_room(served, len(stated) * (body.n or 1))
    if body.echo and not isinstance(model.config, Decoder):
        raise RequestError(
            f"`echo` needs a model without an encoder, but {served.name} has an encoder: remove `echo`",
            param="echo",
        )
    prompts = [await _continued(served, prompt) for prompt in stated]
    options = resolve(model.generation, chat=False, **options_of(body, model))
    await while_connected(request, served.model.prepare(options))
    count, owner = body.n or 1, owner_of(request)
    scored = bool(body.echo) and body.logprobs is not None
    streams = served.model.start_all(prompts, options, count, owner, scored=scored)
    answers = Answers(streams, served.name, server.metrics, server.limits, record_of(request))
    tokens = sum(len(prompt.encoder_ids or prompt.ids) for prompt in prompts)
    return Continuing(served, stated, answers, tokens)


def _check_room(served: Served, answers: int) -> None:
    """Raise RequestError if a request asks for more answers than the slots and the queue can ever hold."""
    most = served.model.worker.slots + served.model.worker.queue
    if answers > most:
        raise RequestError(
            f"a request may ask for at most {most} answers of this server, but n and prompt ask for {answers}"
        )


def _text(served: Served, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else served.model.model.text.decode(prompt)


def check_ids(ids: list[int], width: int, param: str) -> None:
    """Raise RequestError if a token id is outside the model's vocabulary of `width` tokens. `param` names the
    request's field.
    """
    if max(ids) >= width:
        raise RequestError(f"{param}: token ids must be 0 to {width - 1}, got {max(ids):.12g}", param=param)


async def _continued(served: Served, prompt: str | list[int]) -> Prompt:
    model = served.model.model
    if isinstance(prompt, str):
        return await asyncio.to_thread(prompt_of, model, prompt, raw=True)
    check_ids(prompt, model.config.embedding.vocabulary, "prompt")
    if isinstance(model.config, Decoder):
        return Prompt(prompt, None)
    return Prompt([*model.generation.prompt], prompt)


async def _respond(
    request: Request,
    served: Served,
    body: Sampling,
    answers: Answers,
    made: ChatResponse | CompletionResponse,
    prompt_tokens: int,
) -> Response:
    """Return the response with the answers, as a stream or as a whole. If the client disconnects, the answers
    are cancelled.
    """
    note(request, served, made.id, prompt_tokens)
    if body.stream:
        counts = bool(body.stream_options and body.stream_options.include_usage)
        return EventStream(answers, _events(answers, made, prompt_tokens, counts=counts))
    with answers:
        complete = await while_connected(request, answers.read())
    choices = [made.choice(i, answer) for i, answer in enumerate(complete)]
    generated = sum(len(answer.tokens) for answer in complete)
    return JSONResponse(made.body(choices, usage(prompt_tokens, generated, answers.cached_tokens)))


def note(request: Request, served: Served, id: str, prompt_tokens: int) -> None:
    """Add the prompt's tokens to the metrics, and the answer's id and model to the request's log record."""
    server_of(request).metrics.prompt_tokens.labels(served.name).inc(prompt_tokens)
    record_of(request).update(id=id, model=served.name, prompt_tokens=prompt_tokens)


async def _events(
    answers: Answers, made: ChatResponse | CompletionResponse, prompt_tokens: int, *, counts: bool
) -> AsyncIterator[str]:
    """Yield the events of a stream. With `counts`, the last event contains the usage."""
    none = {"usage": None} if counts else {}
    if isinstance(made, ChatResponse):
        for i in range(len(answers.streams)):
            yield event(made.chunk([made.first(i)], **none))
    try:
        async for i, part in answers.parts():
            logprobs = None if answers.streams[i].logprobs is None else part.logprobs
            if part.text or part.finish_reason or logprobs:
                delta = made.delta(i, part.text, logprobs, part.finish_reason)
                if delta is not None:
                    yield event(made.chunk([delta], **none))
    except Exception as error:  # the status has been sent
        yield event(body_of(error))
        return
    if counts:
        generated = sum(len(stream.tokens) for stream in answers.streams)
        yield event(made.chunk([], usage=usage(prompt_tokens, generated, answers.cached_tokens)))
    yield DONE


async def while_connected(request: Request, work: Coroutine[Any, Any, R]) -> R:
    """Await the work and return its value. Cancel the work if the client disconnects or the time limit of a
    request passes.

    Raises ClientDisconnect or TimeoutError if the work was cancelled.
    """
    limit = server_of(request).limits.request_s
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect if gone.done() else TimeoutError(f"the answer took more than {limit:g} s")
    finally:
        for one in (task, gone):
            one.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await one


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
