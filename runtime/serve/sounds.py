"""Answer the routes for sounds: `/v1/audio/transcriptions` and `/v1/audio/translations`."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ...refimpl.decoding.speech import TEMPERATURES
from ...refimpl.errors import LimitError
from ..text.subtitles import FORMATS, Segment, in_json, word_in_json
from .async_segments import AsyncSegments
from .errors import RequestError
from .models import server_of
from .openapi import taking_form
from .request_log import record_of
from .requests import Body, Text
from .responses import event
from .texts import EventStream, while_connected

# Fields of a form are texts.
Temperature = Annotated[
    float,
    BeforeValidator(lambda text: float(text) if str(text).replace(".", "", 1).isdigit() else text),
    Field(ge=0, le=1),
]
Flag = Annotated[bool, BeforeValidator(lambda text: {"true": True, "false": False}.get(text, text))]


class TranslationBody(Body):
    file: bytes
    prompt: Literal[""] | None = None
    response_format: Literal["json", "text", "srt", "vtt", "verbose_json"] = "json"
    temperature: Temperature = 0.0


class TranscriptionBody(TranslationBody):
    language: Text | None = None
    timestamp_granularities: tuple[Literal["segment", "word"], ...] = Field((), strict=False)
    chunking_strategy: Literal["auto"] | None = None
    stream: Flag = False


@taking_form(TranscriptionBody)
async def transcriptions(request: Request, body: TranscriptionBody) -> Response:
    """`POST /v1/audio/transcriptions`: transcribe a sound."""
    words = "word" in body.timestamp_granularities
    if words and body.response_format != "verbose_json":
        raise RequestError(
            "timestamp_granularities with `word` needs the response_format `verbose_json`",
            param="timestamp_granularities",
        )
    return await _answer(request, body, "transcribe", stream=body.stream, language=body.language, words=words)


@taking_form(TranslationBody)
async def translations(request: Request, body: TranslationBody) -> Response:
    """`POST /v1/audio/translations`: transcribe a sound and translate it into English."""
    return await _answer(request, body, "translate")


async def _answer(
    request: Request, body: TranslationBody, task: str, *, stream: bool = False, **options: Any
) -> Response:
    served = await server_of(request).use(request, body.model)
    served.expect_hearing()
    record_of(request).update(model=served.name)
    # At 0, as OpenAI has it, a doubtful text is drawn at higher temperatures.
    temperatures = (body.temperature,) if body.temperature else TEMPERATURES
    with ExitStack() as stack:
        path = stack.enter_context(_as_file(body.file))
        model = served.model
        segments = AsyncSegments(
            model.model, model.worker, path, task=task, temperatures=temperatures, **options
        )
        stack.callback(segments.cancel)
        if stream:
            events = _events(segments, path)
            first = await while_connected(request, anext(events))  # an error still has a status
            return EventStream(stack.pop_all(), _joined(first, events))
        said = await while_connected(request, _all(segments, path))
    text = "".join(one.text for one in said).strip()
    form = body.response_format
    if form == "json":
        return JSONResponse({"text": text, "usage": _usage(segments)})
    if form == "verbose_json":
        return JSONResponse(_verbose(said, text, task, segments, body))
    if form == "text":
        return PlainTextResponse(f"{text}\n")
    written = FORMATS[form]
    cues = "".join(written.each(number, one) for number, one in enumerate(said, 1))
    return PlainTextResponse(written.begin + cues)


def _verbose(
    said: list[Segment], text: str, task: str, segments: AsyncSegments, body: TranslationBody
) -> dict[str, Any]:
    asked = body.timestamp_granularities if isinstance(body, TranscriptionBody) else ()
    made: dict[str, Any] = {
        "task": task, "language": next((one.language for one in said), None),
        "duration": segments.seconds, "text": text, "usage": _usage(segments),
    }  # fmt: skip
    if "segment" in asked or not asked:
        made["segments"] = [in_json(number, one) for number, one in enumerate(said)]
    if "word" in asked:
        made["words"] = [word_in_json(word) for one in said for word in one.words]
    return made


def _usage(segments: AsyncSegments) -> dict[str, object]:
    return {"type": "duration", "seconds": math.ceil(segments.seconds)}


async def _all(segments: AsyncSegments, path: Path) -> list[Segment]:
    with _as_the_field(path):
        return [segment async for segment in segments]


async def _events(segments: AsyncSegments, path: Path) -> AsyncGenerator[str, None]:
    text = ""
    with _as_the_field(path):
        async for segment in segments:
            text += segment.text
            yield event({"type": "transcript.text.delta", "delta": segment.text})
    yield event({"type": "transcript.text.done", "text": text.strip()})


async def _joined(first: str, events: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for one in events:
        yield one


@contextmanager
def _as_file(sound: bytes) -> Iterator[Path]:
    """Write a sound to a temporary file during a `with` block. A file is needed because a sound is read
    twice, in blocks.
    """
    descriptor, name = tempfile.mkstemp()
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(sound)
        yield Path(name)
    finally:
        os.unlink(name)


@contextmanager
def _as_the_field(path: Path) -> Iterator[None]:
    """Convert an error about a file in a `with` block to one that names the form's field instead of a path on
    this machine.
    """
    try:
        yield
    except LimitError as error:
        if str(path) not in str(error):
            raise
        raise RequestError(str(error).replace(str(path), "file"), param="file") from None
