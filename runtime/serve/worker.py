"""Run an engine's steps in a thread. Requests wait in a bounded queue until a row of the batch is free."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple, TypedDict

from ...refimpl.decoding.logprobs import TokenLogprob
from ...refimpl.decoding.stop import FinishReason
from ...refimpl.engine.protocol import Engine
from ...refimpl.errors import LimitError, TfmError
from ..serving_defaults import PREFIX_BYTES, QUEUE, SLOTS
from ..tasks.continuous_batching import CHUNK, Batch, Outcome, Row
from ..tasks.prefixes import Prefixes
from ..tasks.timed_engine import TimedEngine

LATEST = 0.1  # the weight of the latest request in what one takes in the mean


class QueueFullError(LimitError):
    """Raised if the queue is full, or if a new request would wait too long. The client may try again after
    `retry_s` seconds.
    """

    def __init__(self, message: str, retry_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class Part(NamedTuple):
    """The part that one step adds to a text: new characters, new tokens and their log-probabilities.

    The last part of a text also has the reason why the text ended. If an error ended the text, the last
    part has the error instead.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    error: BaseException | None = None


@dataclass(eq=False, kw_only=True)
class TextRequest(Row):
    """A request for one text, which becomes a row of the batch.

    The worker's thread calls `emit` with the text's parts, until the request is `cancelled`.
    """

    emit: Callable[[Part], None]
    cancelled: bool = False
    begun: float = 0.0  # when it got its slot

    def tell(self, outcome: Outcome[TextRequest]) -> None:
        """Pass the result of a step to `emit`, unless the request is cancelled."""
        if self.cancelled:
            return
        if outcome.error is not None:
            self.emit(Part(error=outcome.error))
            return
        sequence, tokens = self.sequence, () if outcome.token is None else (outcome.token,)
        logprobs = tuple(sequence.token_logprobs[-len(tokens) :]) if tokens else ()
        self.emit(Part(outcome.text, tokens, logprobs, sequence.finish_reason))


@dataclass(eq=False)
class Job:
    """Work for the engine other than generating texts, such as computing many embeddings. While a part of a
    job runs, no other request uses the engine.

    `step` computes a part and returns whether another part follows. `step` isn't called again after the
    job is cancelled. `fail` is called with an error if the worker is closed.
    """

    step: Callable[[], bool]
    fail: Callable[[BaseException], None]
    cancelled: bool = False
    begun: float = 0.0


class WorkerOptions(TypedDict, total=False):
    """The keyword arguments of a Worker that the server passes on."""

    slots: int
    queue: int
    max_wait: float | None
    chunk: int
    prefix_bytes: int


class Worker:
    """A thread with one engine and one queue. Requests begin in the order in which they arrive.

    - `slots`: how many texts are generated at a time, at most.
    - `queue`: how many requests may wait.
    - `max_wait`: a request that would wait for more seconds is refused (see `expected_wait`).
    - `chunk`: how many tokens of a prompt are read at a time.
    - `prefix_bytes`: the memory for the caches of ended texts, which later prompts reuse (see `Prefixes`).
    - `same_bits`: whether a token's results have the same bits whatever other tokens are computed in the
      same step.
    - `drafting`: the engine that drafts tokens (see `Batch`).
    """

    def __init__(
        self,
        engine: Engine,
        *,
        slots: int = SLOTS,
        queue: int = QUEUE,
        max_wait: float | None = None,
        chunk: int = CHUNK,
        prefix_bytes: int = PREFIX_BYTES,
        same_bits: bool = False,
        drafting: TimedEngine | None = None,
    ) -> None:
        for name, value in (("slots", slots), ("queue", queue), ("chunk", chunk)):
            if value < 1:
                raise LimitError(f"{name} must be at least 1, got {value}")
        self.slots, self.queue, self.max_wait = slots, queue, max_wait
        if prefix_bytes < 0:
            raise LimitError(f"prefix_bytes must be at least 0, got {prefix_bytes}")
        self.prefixes = Prefixes(prefix_bytes, None if same_bits else chunk)
        self._batch: Batch[TextRequest] = Batch(
            engine, chunk, self.prefixes if prefix_bytes else None, drafting
        )
        self._waiting: deque[TextRequest | Job] = deque()
        self._running: set[TextRequest] = set()
        self._job: Job | None = None
        self._turn = 0.0  # seconds between two that begin while others wait, in the mean
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="tfm-worker", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """The number of texts and jobs that are being computed."""
        return len(self._running) + (self._job is not None)

    @property
    def waiting(self) -> int:
        """The number of requests in the queue."""
        return len(self._waiting)

    @property
    def expected_wait(self) -> float:
        """The number of seconds until a new request would begin, estimated from how long the latest requests
        took.

        A text that takes t seconds delays each waiting request by t / slots. A job that takes t seconds
        delays each waiting request by t.
        """
        return max(len(self._waiting) + 1 - self._free, 0) * self._turn

    @property
    def _free(self) -> int:
        """The number of texts that could begin at the next step."""
        together = any(request.has_encoder for request in [*self._running])
        return 0 if together else max(self.slots - self.running, 0)

    def submit(self, *requests: TextRequest | Job) -> None:
        """Put all these requests into the queue.

        If the queue has no room for all of them, or if the first one would wait too long, the method
        queues none and raises QueueFullError.
        """
        with self._changed:
            if self._closed:
                raise TfmError("the model was closed and accepts no more requests")
            # What a free slot takes at once doesn't wait.
            room = self.queue + self._free - len(self._waiting)
            if len(requests) > room:
                raise QueueFullError(
                    f"the queue can take {max(room, 0)} more texts, but the request has {len(requests)}: "
                    "try again later"
                )
            wait = self.expected_wait
            if self.max_wait is not None and wait > self.max_wait:
                would = f"the server is busy: this request would wait about {wait:.1f} s"
                raise QueueFullError(
                    f"{would}, but may wait at most {self.max_wait:g} s: try again later", wait
                )
            self._waiting.extend(requests)
            self._changed.notify()

    def cancel(self, request: TextRequest | Job) -> None:
        """End a request. A waiting request leaves the queue. A running request frees its slot at the next
        step.
        """
        with self._changed:
            request.cancelled = True
            if request in self._waiting:
                self._waiting.remove(request)

    def close(self) -> None:
        """End all requests with an error, and then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self.running or self._closed):
                    self._changed.wait()
                if self._closed:
                    break
                joining = self._next()
            if self._job is not None and (self._job.cancelled or not self._job.step()):
                self._count(self._job, 1)
                self._job = None
            self._step(joining)
        closed = TfmError("the model was closed before the answer was complete")
        for request in [*self._running, *filter(None, [self._job]), *self._waiting]:
            if isinstance(request, Job):
                request.fail(closed)
            else:
                request.emit(Part(error=closed))

    def _next(self) -> list[TextRequest]:
        """Take the requests that can begin from the queue: texts for the free slots, or a job if no text is
        being generated.
        """
        for request in [*self._running]:
            if request.cancelled:
                request.sequence.finish()
                self._end(request)
        joining: list[TextRequest] = []
        while self._waiting and len(self._running) < self.slots:
            request = self._waiting[0]
            if isinstance(request, Job):
                if not self.running:
                    self._job, request.begun = request, monotonic()
                    self._waiting.popleft()
                break
            if not self._batch.takes(request):
                break
            joining.append(request)
            request.begun = monotonic()
            self._running.add(request)
            self._waiting.popleft()
        return joining

    def _end(self, request: TextRequest) -> None:
        """Free a text's slot."""
        self._running.remove(request)
        self._count(request, self.slots)

    def _count(self, request: TextRequest | Job, side_by_side: int) -> None:
        """Add the time that a request took to the average time."""
        turn = (monotonic() - request.begun) / side_by_side
        self._turn += (turn - self._turn) * (LATEST if self._turn else 1)

    def _step(self, joining: list[TextRequest]) -> None:
        """Run one step of all texts that are being generated."""
        try:
            for outcome in self._batch.step(joining):
                if outcome.row.ended:
                    self._end(outcome.row)  # whoever has the last part finds its slot free
                outcome.row.tell(outcome)
        except BaseException as error:  # the engine's: no text of this batch can go on, the next ones may
            for request in self._running:
                request.emit(Part(error=error))
            self._running.clear()
