"""Write transcribed segments as text or subtitles: plain lines, SubRip, WebVTT, tab-separated
values or JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

FormatName = Literal["txt", "srt", "vtt", "json", "tsv"]


class Word(NamedTuple):
    """A word of a segment, with its punctuation, spoken from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Segment:
    """A transcribed part of a sound, from `start` to `end`, in seconds.

    `text` is exactly as the model generates it, with a space before the first word. `tokens` include the
    timestamps. `words` are set if the caller asked for them. The other fields describe the segment's window:

    - `language`: the language of the window, if the model has several languages.
    - `logprob`: the mean log-probability of the window's tokens.
    - `compression`: how often the tokens repeat themselves.
    - `no_speech`: the probability that nobody speaks.
    - `doubts`: the reasons to doubt the text, from `refimpl.decoding.speech.doubts`.
    - `seek`: the frame at which the window begins.
    - `temperature`: the temperature at which the window's text was generated.

    A model with a CTC head has no windows of its own. For such a model, `seek` is the frame at which the
    segment begins, and the other fields describe only the segment.
    """

    start: float
    end: float
    text: str
    tokens: list[int]
    language: str | None
    logprob: float
    compression: float
    no_speech: float
    doubts: tuple[str, ...] = ()
    words: tuple[Word, ...] = ()
    seek: int = 0
    temperature: float = 0.0


class Format(NamedTuple):
    """A file format: the beginning of the file, a function that makes the text of each segment (numbered from
    1), and the end of the file.
    """

    begin: str
    each: Callable[[int, Segment], str]
    end: Callable[[Sequence[Segment]], str]


def by_word(said: Segment) -> list[Segment]:
    """Return a segment for each word, for subtitles that show one word after the other."""
    return [replace(said, start=one.start, end=one.end, text=one.text, words=()) for one in said.words]


def clock(seconds: float, point: str) -> str:
    """Return a time as text: hours, minutes, seconds, `point` and milliseconds, such as 00:01:02.500."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}{point}{milliseconds:03d}"


def _line(text: str) -> str:
    """Return the text in one line. The arrow `-->`, which subtitles have between times, becomes `->`."""
    return " ".join(text.split()).replace("-->", "->")


def _cue(said: Segment, point: str) -> str:
    return f"{clock(said.start, point)} --> {clock(said.end, point)}\n{_line(said.text)}\n\n"


def _tsv(_: int, said: Segment) -> str:
    return f"{round(said.start * 1000)}\t{round(said.end * 1000)}\t{_line(said.text)}\n"


def word_in_json(said: Word) -> dict[str, object]:
    """Return a word as a JSON object with OpenAI's fields."""
    return {"word": said.text, "start": round(said.start, 3), "end": round(said.end, 3)}


def in_json(number: int, one: Segment) -> dict[str, object]:
    """Return a segment, numbered from 0, as a JSON object with the fields of OpenAI's verbose_json."""
    found: dict[str, object] = {
        "id": number, "seek": one.seek, "start": round(one.start, 3), "end": round(one.end, 3),
        "text": one.text, "tokens": one.tokens, "temperature": one.temperature, "avg_logprob": one.logprob,
        "compression_ratio": one.compression, "no_speech_prob": one.no_speech,
    }  # fmt: skip
    return found | ({"words": [word_in_json(word) for word in one.words]} if one.words else {})


def _json(segments: Sequence[Segment]) -> str:
    """Return all segments as JSON in the form of OpenAI's verbose_json."""
    found = [in_json(number, one) for number, one in enumerate(segments)]
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
