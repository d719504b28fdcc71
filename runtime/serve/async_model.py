"""Run a model for asyncio: one engine generates the answers to many requests at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar, Unpack

import numpy as np

from ...refimpl.config import LM, Decoder
from ...refimpl.decoding.logprobs import TokenLogprob
from ...refimpl.decoding.stop import FinishReason
from ...refimpl.errors import LimitError
from ..serving_defaults import PREFIX_BYTES, QUEUE, SLOTS
from ..tasks.classify import Label
from ..tasks.continuous_batching import CHUNK, fit
from ..tasks.declared_options import spelled_out
from ..tasks.documents import Schema
from ..tasks.encoder_batches import Texts
from ..tasks.generate import (
    Prompt,
    StreamedText,
    answers_of,
    as_messages,
    chat_ids,
    prompt_of,
    sequence,
)
from ..tasks.generate_batch import Completion
from ..tasks.held_answers import held
from ..tasks.model import Model
from ..tasks.options import GenerateOptions, Options, resolve
from ..text.chat_answers import ChatAnswers
from ..text.chat_template import Message, Tool, Variables
from .search_job import search_job
from .worker import Job, Part, TextRequest, Worker

R = TypeVar("R")

COMPILERS = 2  # languages that are compiled at a time
PART = 64  # texts of an encoder that are read between two looks at who is still there


class AsyncTextStream:
    """A text that is being generated. `async for` yields its parts, only once. `await` returns the whole text
    (`read`).

    `tokens` are the ids generated so far, and `text` is the text received so far. `finish_reason` says why
    the text ended. If nobody needs the text any more, call `cancel`: the text's slot then becomes free at
    the next step.
    """

    def __init__(self, prompt: Sequence[int], *, logprobs: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._parts: asyncio.Queue[Part] = asyncio.Queue()
        self.receive: Callable[[Part], None] = self._parts.put_nowait  # in the loop's thread
        self._cancel: Callable[[], None] = lambda: None
        self._cached: Callable[[], int] = lambda: 0
        self.prompt = prompt
        self.text = ""
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] | None = [] if logprobs else None
        # Of the prompt's tokens but the first, where they were asked for: whole with the text's first token.
        self.prompt_logprobs: list[TokenLogprob] | None = None
        self.json_schema: Schema | None = None
        self.answers: ChatAnswers | None = None  # what reads the text, where it may call tools
        self.finish_reason: FinishReason | None = None

    def __repr__(self) -> str:
        return f"<AsyncTextStream {self.text!r:.60}, ended: {self.finish_reason}; await it, or async for>"

    @property
    def cached_tokens(self) -> int:
        """The number of tokens of the prompt that came from the cache of an earlier text."""
        return self._cached()

    def __await__(self) -> Generator[Any, None, Completion]:
        return self.read().__await__()

    async def parts(self) -> AsyncIterator[Part]:
        """Yield one part for each step, even if the part contains no text."""
        while self.finish_reason is None:
            part = await self._parts.get()
            self.take(part)
            yield part

    def take(self, part: Part) -> None:
        """Add a part to the received text. If the part contains an error, raise the error."""
        if part.error is not None:
            self._release()
            raise part.error
        self.text += part.text
        self.tokens += part.tokens
        if self.logprobs is not None:
            self.logprobs += part.logprobs
        self.finish_reason = part.finish_reason
        if part.finish_reason is not None:
            self._release()

    async def __aiter__(self) -> AsyncIterator[str]:
        async for part in self.parts():
            if part.text:
                yield part.text

    async def read(self) -> Completion:
        """Wait for the whole text. Returns the text, its tokens and the reason why it ended.

        If the reader is cancelled, the text is cancelled too.
        """
        try:
            async for _ in self.parts():
                pass
        finally:
            self.cancel()
        answer = None
        if self.answers is not None:
            answer = self.answers.answer(self.prompt, self.text, self.finish_reason)
        return Completion(self.tokens, self.text, self.finish_reason, self.logprobs, self.json_schema, answer)

    def cancel(self) -> None:
        """End the text, whether it is waiting or being generated. If the text has already ended, do
        nothing.
        """
        self._cancel()
        self._release()

    def _release(self) -> None:
        """Drop the references to the request, which refers to this stream.

        Otherwise everything that an ended text holds, such as the process that follows its language, would
        stay until garbage is collected."""
        cached = self.cached_tokens
        self._cancel, self._cached = lambda: None, lambda: cached

    def emit(self, part: Part) -> None:
        """Add a part to the stream. Any thread may call this method."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(lambda: self.receive(part))


class AsyncModel:
    """A `Model` for asyncio that answers many requests at a time. The texts of all requests share the steps
    of one engine.

    At most `slots` texts are generated at a time, and at most `queue` requests wait. Any further request
    raises QueueFullError. With `max_wait`, a request that would wait for more than `max_wait` seconds also
    raises QueueFullError. A text can join or leave the batch at any step. Each text equals the text that
    `Model` alone returns for the same seed: up to rounding, and on tfm's kernels bit for bit. Between the
    steps, the engine reads prompts in chunks of `chunk` tokens. The caches of earlier texts are kept in up
    to `prefix_bytes` bytes. If a prompt begins like an earlier text, the engine doesn't read the shared
    beginning again.
    """

    def __init__(
        self,
        model: Model,
        *,
        slots: int = SLOTS,
        queue: int = QUEUE,
        max_wait: float | None = None,
        chunk: int = CHUNK,
        prefix_bytes: int = PREFIX_BYTES,
    ) -> None:
        self.model = model
        self._compilers = ThreadPoolExecutor(COMPILERS)
        self.worker = Worker(
            model.engine,
            slots=slots,
            queue=queue,
            max_wait=max_wait,
            chunk=chunk,
            prefix_bytes=prefix_bytes,
            same_bits=bool(model.same_bits),
            drafting=model.drafting,
        )

    async def __aenter__(self) -> AsyncModel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the model. Requests that aren't complete get an error."""
        await asyncio.to_thread(self.end)

    def end(self) -> None:
        """Close the model like `close`, for callers without an event loop."""
        self._compilers.shutdown(wait=False, cancel_futures=True)
        self.worker.close()

    @spelled_out(GenerateOptions)
    async def generate(
        self, text: str, *, raw: bool = False, task: str | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncTextStream:
        """Queue a text for generation, and return the answer as a stream. The arguments are the same as in
        `Model.generate`.
        """
        prompt = await asyncio.to_thread(prompt_of, self.model, text, raw=raw, task=task)
        resolved = self.model.options(raw=raw, task=task, **options)
        await self.prepare(resolved)
        return self.start(prompt, resolved)[0]

    @spelled_out(GenerateOptions)
    async def chat(
        self,
        messages: str | Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        chat_template_kwargs: Variables | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncTextStream:
        """Queue a conversation, and return the model's next message as a stream. The arguments are the same
        as in `Model.chat`.

        With `tools`, awaiting the stream returns a text with an `answer`, which contains the tool calls.
        """
        model, asked = self.model, as_messages(messages)
        answers = await asyncio.to_thread(answers_of, model, tools)
        ids = await asyncio.to_thread(chat_ids, model, asked, tools, answers, chat_template_kwargs)
        resolved = resolve(model.generation, chat=True, **options)
        schema = resolved.json_schema
        if answers is not None:
            ids, resolved = await asyncio.to_thread(held, model, answers, ids, resolved)
        await self.prepare(resolved)
        stream = self.start(Prompt(ids, None), resolved)[0]
        stream.answers, stream.json_schema = answers, schema
        return stream

    async def prepare(self, options: Options) -> None:
        """Compile the formal language that the options require, such as a JSON schema. This may take a
        second.

        Raises ArgumentError for a JSON schema, a regular expression or a grammar that isn't supported.
        """
        if (language := options.language) is not None:
            loop = asyncio.get_running_loop()
            # In threads of their own: hostile languages wait here for the end of their time.
            await loop.run_in_executor(self._compilers, lambda: self.model.constraints.constraint(language))

    async def chat_prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        chat_template_kwargs: Variables | None = None,
        *,
        continued: bool = False,
    ) -> Prompt:
        """Return the prompt for the next message of a conversation. In this message, the model may call
        `tools`.

        With `continued`, return the prompt for the rest of the last message instead.
        """
        ids = await asyncio.to_thread(
            self.model.chat_template.encode,
            messages,
            tools=tools,
            continue_final_message=continued,
            chat_template_kwargs=chat_template_kwargs,
        )
        return Prompt(ids, None)

    def start(
        self, prompt: Prompt, options: Options, count: int = 1, owner: str = ""
    ) -> list[AsyncTextStream]:
        """Queue `count` answers to one prompt. The other arguments and the errors are the same as in
        `start_all`.
        """
        return self.start_all([prompt], options, count, owner)

    def start_all(
        self,
        prompts: Sequence[Prompt],
        options: Options,
        count: int = 1,
        owner: str = "",
        *,
        scored: bool = False,
    ) -> list[AsyncTextStream]:
        """Queue `count` answers to each prompt, and return their streams.

        The random numbers for an answer come from the seed and the answer's number, counted over all
        answers. Only requests of the same `owner` share cached prompts. With `scored`, a decoder's streams
        have `prompt_logprobs` if the options request log-probabilities.

        The texts share steps with the texts of other requests, as `Batch` describes. The beam searches of
        a model with an encoder are one job (`search_job`).

        Raises LimitError for a prompt that leaves no room for an answer. Also raises LimitError for
        speculative decoding, and for beam search with a decoder, because both work only for single texts.
        Raises QueueFullError, and queues nothing, if the queue doesn't have room for all prompts.
        """
        model = self.model
        model.expect(LM)
        if options.draft or (options.beams is not None and isinstance(model.config, Decoder)):
            raise LimitError(
                "`beams` and `draft` can't be used for several texts at once; if the model sets beams, "
                "use greedy=True"
            )
        streams, requests = [], []
        for index, prompt in enumerate(prompt for prompt in prompts for _ in range(count)):
            generated = sequence(model, prompt, options, index)
            fit(generated, f"text {index + 1}", model.config)
            stream = AsyncTextStream(prompt.ids, logprobs=options.logprobs is not None)
            stream.prompt_logprobs = [] if scored else None
            stream.json_schema = options.json_schema
            request = TextRequest(
                generated,
                owner,
                options.draft is not False,
                stream.prompt_logprobs,
                StreamedText(model.text, options.stop, options.shown),
                emit=stream.emit,
            )
            stream._cancel = lambda request=request: self.worker.cancel(request)
            stream._cached = lambda request=request: request.shared
            streams.append(stream)
            requests.append(request)
        if options.beams is None:
            self.worker.submit(*requests)
            return streams
        job = search_job(model.engine, requests, options)
        for stream, request in zip(streams, requests, strict=True):
            stream._cancel = lambda request=request: self._leave(request, requests, job)
        self.worker.submit(job)
        return streams

    def _leave(self, request: TextRequest, others: Sequence[TextRequest], job: Job) -> None:
        """Cancel one of a job's texts. If all of its texts are cancelled, cancel the job."""
        request.cancelled = True
        if all(one.cancelled for one in others):
            self.worker.cancel(job)

    async def embed(self, texts: Texts) -> np.ndarray:
        """Return the embeddings of texts, or of pairs of texts, as an array [texts, D]. See `Model.embed`."""
        parts = await self._in_parts(texts, self.model.embed)
        return np.concatenate(parts) if parts else self.model.embed([])

    async def classify(self, texts: Texts) -> list[list[Label]]:
        """Return the labels of each text or pair of texts, the likeliest first. See `Model.classify`."""
        return [labels for part in await self._in_parts(texts, self.model.classify) for labels in part]

    async def _in_parts(self, texts: Texts, function: Callable[[Any], R]) -> list[R]:
        """Call a function on PART texts at a time, queued as one job, and return its results.

        If the reader is cancelled, the job ends after the current part."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[R]] = loop.create_future()
        listed = [texts] if isinstance(texts, str | tuple) else list(texts)
        parts: list[R] = []

        def tell(set_it: Callable[..., None], value: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(lambda: future.done() or set_it(value))

        def step() -> bool:
            try:
                begin = PART * len(parts)
                if begin < len(listed):
                    parts.append(function(listed[begin : begin + PART]))
            except BaseException as error:
                tell(future.set_exception, error)
                return False
            if PART * len(parts) < len(listed):
                return True
            tell(future.set_result, parts)
            return False

        job = Job(step, lambda error: tell(future.set_exception, error))
        self.worker.submit(job)
        try:
            return await future
        finally:
            self.worker.cancel(job)
