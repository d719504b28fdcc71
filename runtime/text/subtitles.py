"""Segments of what was said as texts and subtitles: plain lines, SubRip, WebVTT, tab-separated, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, get_args

FormatName = Literal["txt", "srt", "vtt", "json", "tsv"]


class Said(Protocol):
    """What a segment must have; that of `tasks.transcribe` has it."""

    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def language(self) -> str | None: ...
    @property
    def logprob(self) -> float: ...
    @property
    def compression(self) -> float: ...
    @property
    def no_speech(self) -> float: ...


class Format(NamedTuple):
    """What a file begins with, what each segment adds, by its number from 1, and what all add at the end."""

    begin: str
    each: Callable[[int, Said], str]
    end: Callable[[Sequence[Said]], str]


def clock(seconds: float, point: str) -> str:
    """Hours, minutes, seconds and milliseconds: 00:01:02.500."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}{point}{milliseconds:03d}"


def _line(text: str) -> str:
    """One line, without the arrow that subtitles have between times."""
    return " ".join(text.split()).replace("-->", "->")


def _cue(said: Said, point: str) -> str:
    return f"{clock(said.start, point)} --> {clock(said.end, point)}\n{_line(said.text)}\n\n"


def _tsv(_: int, said: Said) -> str:
    return f"{round(said.start * 1000)}\t{round(said.end * 1000)}\t{_line(said.text)}\n"


def _json(segments: Sequence[Said]) -> str:
    """The fields of OpenAI's verbose_json."""
    found = [
        {
            "id": number, "start": round(one.start, 3), "end": round(one.end, 3), "text": one.text,
            "tokens": one.tokens, "avg_logprob": one.logprob, "compression_ratio": one.compression,
            "no_speech_prob": one.no_speech,
        }
        for number, one in enumerate(segments)
    ]  # fmt: skip
    language = next((one.language for one in segments), None)
    text = "".join(one.text for one in segments).strip()
    return json.dumps({"text": text, "language": language, "segments": found}, ensure_ascii=False) + "\n"


def _nothing(_: object) -> str:
    return ""


FORMATS: dict[FormatName, Format] = {
    "txt": Format("", lambda _, said: _line(said.text) + "\n", _nothing),
    "srt": Format("", lambda number, said: f"{number}\n{_cue(said, ',')}", _nothing),
    "vtt": Format("WEBVTT\n\n", lambda _, said: _cue(said, "."), _nothing),
    "json": Format("", lambda _number, _said: "", _json),
    "tsv": Format("start\tend\ttext\n", _tsv, _nothing),
}
assert FORMATS.keys() == set(get_args(FormatName))
