"""Transcribe a sound for asyncio, as one job in a model's queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from ...refimpl.engine.sound import HOP, RATE
from ..tasks.model import Model
from ..text.subtitles import Segment
from .worker import Job, Worker


class AsyncSegments:
    """The segments of a sound's transcription. `async for` yields each segment once, as soon as it is known.

    The constructor queues the job. While a segment is computed, no other request uses the engine.
    `seconds`, the length of the sound, is known once the first segment is known. If nobody needs more
    segments, call `cancel`. The options are the same as in `Model.transcribe`.
    """

    def __init__(self, model: Model, worker: Worker, sound: Path, **options: Any) -> None:
        self.seconds = 0.0
        self._loop = asyncio.get_running_loop()
        self._got: asyncio.Queue[Segment | BaseException | None] = asyncio.Queue()
        self._begin = lambda: model.transcribe(sound, progress=self._progress, **options)
        self._segments: Iterator[Segment] | None = None
        self._worker, self._job = worker, Job(self._step, self._emit)
        worker.submit(self._job)

    def cancel(self) -> None:
        """End the transcription, whether it is waiting or running. After the end of the transcription, do
        nothing.
        """
        self._worker.cancel(self._job)

    async def __aiter__(self) -> AsyncIterator[Segment]:
        while (got := await self._got.get()) is not None:
            if isinstance(got, BaseException):
                raise got
            yield got

    def _step(self) -> bool:
        """Transcribe up to the end of the next segment. The worker's thread calls this."""
        try:
            self._segments = self._segments or self._begin()
            self._emit(next(self._segments))
        except StopIteration:
            self._emit(None)
        except BaseException as error:
            self._emit(error)
        else:
            return True
        return False

    def _emit(self, got: Segment | BaseException | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._got.put_nowait, got)

    def _progress(self, stage: str, done: int, total: int) -> None:
        self.seconds = total * HOP / RATE
