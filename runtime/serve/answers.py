"""Read the answers to one request, as a stream or all at once. The answers are generated together and stopped
together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType

from ..tasks.generate_batch import Completion
from .async_model import AsyncTextStream
from .limits import Limits
from .metrics import Metrics
from .request_log import Record
from .worker import Part


class Answers:
    """The streams of the answers to one request. When a `with` block over this object ends, even by an error,
    the answers' slots are freed.
    """

    def __init__(
        self,
        streams: Sequence[AsyncTextStream],
        model: str,
        metrics: Metrics,
        limits: Limits,
        record: Record,
    ) -> None:
        self.streams, self._model, self._metrics, self._record = streams, model, metrics, record
        self._parts: asyncio.Queue[tuple[int, Part]] = asyncio.Queue()
        for i, stream in enumerate(streams):  # before any part comes
            stream.receive = lambda part, i=i: self._parts.put_nowait((i, part))
        self._begin = time.perf_counter()
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(limits.request_s, self._expire, limits.request_s)

    @property
    def cached_tokens(self) -> int:
        """The number of tokens of the first prompt that came from the cache of an earlier request."""
        return self.streams[0].cached_tokens

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadline.cancel()
        for stream in self.streams:
            stream.cancel()
        self._record["new_tokens"] = sum(len(stream.tokens) for stream in self.streams)
        self._record["finish_reasons"] = [stream.finish_reason for stream in self.streams]

    def _expire(self, seconds: float) -> None:
        for stream in self.streams:
            stream.cancel()
            stream.emit(Part(error=TimeoutError(f"the answer took more than {seconds:g} s")))

    async def parts(self) -> AsyncIterator[tuple[int, Part]]:
        """Yield the parts of all answers as they are generated, as pairs (number of the answer, part)."""
        generated = self._metrics.generated_tokens.labels(self._model)
        first = True
        while any(stream.finish_reason is None for stream in self.streams):
            i, part = await self._parts.get()
            self.streams[i].take(part)
            if first and part.tokens:
                first = False
                first_token_s = time.perf_counter() - self._begin
                self._metrics.first_token.labels(self._model).observe(first_token_s)
                self._record["first_token_s"] = round(first_token_s, 4)
            generated.inc(len(part.tokens))
            yield i, part

    async def read(self) -> list[Completion]:
        """Wait until all answers are complete, and return them."""
        async for _ in self.parts():
            pass
        return [Completion(s.tokens, s.text, s.finish_reason, s.logprobs) for s in self.streams]
