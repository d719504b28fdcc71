"""Stream the answer to a chat as events, for every API: thoughts, text and tool calls as the model generates
them.
"""

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
    """A parser for answers without tool calls and thoughts: the whole answer is text."""

    marks: frozenset[int] = frozenset()

    def parser(self) -> PlainText:
        """Return a parser for one answer."""
        return self

    def feed(self, text: str) -> list[Event]:
        """Parse the next piece of an answer, and return its events."""
        return [Event("text", text)] if text else []

    def finish(self, *, cut: bool) -> list[Event]:
        """Return the events that remain at the end of an answer. There are none for plain text."""
        return []


T = TypeVar("T", Tools, PlainText)


@dataclass
class Chat(Generic[T]):
    """A chat request: its model, its tools, and the answers that are being generated.

    - `thought_tokens`: how many tokens of thoughts were generated so far.
    - `logprobs`: the log-probabilities of the tokens since the last event.
    """

    served: Served
    tools: T
    answers: Answers
    prompt_tokens: int
    thought_tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def new_tokens(self) -> int:
        """The number of tokens that the first answer has so far."""
        return len(self.answers.streams[0].tokens)

    @property
    def finish_reason(self) -> str | None:
        """The reason why the first answer ended; None while it is being generated."""
        return self.answers.streams[0].finish_reason

    def stopped_by(self, stops: Sequence[str]) -> str | None:
        """Return the stop text that ended the first answer; None if none of `stops` ended it."""
        stream = self.answers.streams[0]
        generated = self.served.model.model.text.decode(stream.tokens, self.tools.marks)
        return next((stop for stop in stops if generated.startswith(stop, len(stream.text))), None)

    async def events(self) -> AsyncIterator[Event]:
        """Yield the events of the answer as the model generates it. The chat must have only one answer."""
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
    """Join the system and developer messages at the beginning into one system message, because most chat
    templates allow only one system message.
    """
    count = next(
        (i for i, one in enumerate(messages) if one["role"] not in ("system", "developer")), len(messages)
    )
    if count < 2:
        return messages
    text = "\n\n".join(one["content"] for one in messages[:count])
    return [{"role": "system", "content": text}, *messages[count:]]


def joined_users(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join consecutive user messages into one, because many chat templates require that user and assistant
    alternate.
    """
    made: list[dict[str, Any]] = []
    for one in messages:
        if made and one["role"] == made[-1]["role"] == "user":
            one = {**one, "content": f"{made.pop()['content']}\n\n{one['content']}"}
        made.append(one)
    return made


async def named_events(
    events: AsyncIterator[Mapping[str, Any]], failed: Callable[[BaseException], Mapping[str, Any]]
) -> AsyncIterator[str]:
    """Yield each event as a server-sent event with its `type` as its name.

    An error becomes the last event, made by `failed`, because the HTTP status has already been sent.
    """
    try:
        async for one in events:
            yield named_event(one)
    except Exception as error:
        yield named_event(failed(error))


def named_event(value: Mapping[str, Any]) -> str:
    """Return a value as a server-sent event with its `type` as the event's name."""
    return f"event: {value['type']}\ndata: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n"
