"""A chat that is being answered, whichever API asks: what it holds, as it comes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ...refimpl.decoding.logprobs import TokenLogprob
from ..text.call_parser import Event
from .answers import Answers
from .models import Served
from .tools import Tools


class PlainText:
    """What reads an answer of no format: all of it is text."""

    marks: frozenset[int] = frozenset()

    def parser(self) -> PlainText:
        """A reader of one answer."""
        return self

    def feed(self, text: str) -> list[Event]:
        """What a piece holds."""
        return [Event("text", text)] if text else []

    def finish(self, *, cut: bool) -> list[Event]:
        """What is left at the end."""
        return []


T = TypeVar("T", Tools, PlainText)


@dataclass
class Chat(Generic[T]):
    """A chat, its tools and the answers that were begun; `thought_tokens` are those of thoughts so far, and
    `logprobs` those of the text since the last other event."""

    served: Served
    tools: T
    answers: Answers
    prompt_tokens: int
    thought_tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def new_tokens(self) -> int:
        """How many tokens were generated so far."""
        return len(self.answers.streams[0].tokens)

    @property
    def finish_reason(self) -> str | None:
        """Why the first answer ended."""
        return self.answers.streams[0].finish_reason

    def stopped_by(self, stops: Sequence[str]) -> str | None:
        """Which of the stop texts ended the first answer."""
        stream = self.answers.streams[0]
        generated = self.served.model.model.text.decode(stream.tokens, self.tools.marks)
        return next((stop for stop in stops if generated.startswith(stop, len(stream.text))), None)

    async def events(self) -> AsyncIterator[Event]:
        """What the only answer holds."""
        parser = self.tools.parser()
        async for _, part in self.answers.parts():
            found = parser.feed(part.text)
            self.logprobs += part.logprobs
            if part.finish_reason is not None:
                found += parser.finish(cut=part.finish_reason != "stop")
            self.thought_tokens += len(part.tokens) * any(kind == "thought" for kind, _ in found)
            for one in found:
                yield one
                self.logprobs.clear()


def joined_systems(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, with those of system and developer at the beginning as one: most templates take one."""
    count = next(
        (i for i, one in enumerate(messages) if one["role"] not in ("system", "developer")), len(messages)
    )
    if count < 2:
        return messages
    text = "\n\n".join(one["content"] for one in messages[:count])
    return [{"role": "system", "content": text}, *messages[count:]]


def joined_users(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, with those of the user that follow each other as one: many templates take turns alone."""
    made: list[dict[str, Any]] = []
    for one in messages:
        if made and one["role"] == made[-1]["role"] == "user":
            one = {**one, "content": f"{made.pop()['content']}\n\n{one['content']}"}
        made.append(one)
    return made


async def named_events(
    events: AsyncIterator[Mapping[str, Any]], failed: Callable[[BaseException], Mapping[str, Any]]
) -> AsyncIterator[str]:
    """A stream whose events have their `type` as their name; an error is its last one, since the status has
    been sent."""
    try:
        async for one in events:
            yield named_event(one)
    except Exception as error:
        yield named_event(failed(error))


def named_event(value: Mapping[str, Any]) -> str:
    """One event of such a stream."""
    return f"event: {value['type']}\ndata: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n"
