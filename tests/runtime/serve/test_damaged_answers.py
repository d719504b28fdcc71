"""Whatever a model writes is an answer in each API, whole and streamed, with the same calls."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.drawn_answers import MUTANTS, answer, cuttings, mutant
from tfm.runtime.serve import message_blocks, response_items
from tfm.runtime.serve.chat import Chat
from tfm.runtime.serve.responses import ChatResponse
from tfm.runtime.serve.worker import Part
from tfm.runtime.tasks import Completion
from tfm.runtime.text.call_formats import BY_NAME
from tfm.runtime.text.call_parser import AnswerParser, read_answer
from tfm.runtime.text.call_writer import write_answer


def chat_of(pieces: list[str], reason: str, tools: Any) -> Chat:
    """A chat whose answer comes in these pieces."""
    stream = SimpleNamespace(tokens=[], text="".join(pieces), finish_reason=reason)

    async def parts() -> AsyncIterator[tuple[int, Part]]:
        for i, piece in enumerate(pieces, 1):
            yield 0, Part(piece, (0,), (), reason if i == len(pieces) else None)

    text = SimpleNamespace(decode=lambda *_: "")
    served = SimpleNamespace(name="m", model=SimpleNamespace(model=SimpleNamespace(text=text)))
    answers = SimpleNamespace(streams=[stream], parts=parts, cached_tokens=0)
    made: Any = (served, tools, answers, 1)
    return Chat(*made)


async def all_of(events: AsyncIterator[Any]) -> list[Any]:
    return [event async for event in events]


def check_answers(name: str, seeds: Iterable[int]) -> None:
    form = BY_NAME[name]
    for seed in seeds:
        rng = random.Random(f"damaged {name} {seed}")
        drawn = answer(rng, form)
        text = mutant(rng, write_answer(form, drawn.thoughts, drawn.text, drawn.calls))
        reason: Any = rng.choice(["stop", "length"])
        (pieces,) = cuttings(rng, text, 1)
        read = read_answer(text, form, drawn.functions, cut=reason != "stop")
        tools: Any = SimpleNamespace(
            marks=frozenset(),
            parser=partial(AnswerParser, form, drawn.functions),
            read=partial(lambda read, *_: read, read),
        )
        expected = [(one.name, json.loads(one.arguments)) for one in read.calls]

        items = asyncio.run(all_of(response_items.Made(chat_of(pieces, reason, tools), {}).events()))
        called = [item for item in items[-1]["response"]["output"] if item["type"] == "function_call"]
        assert [(one["name"], json.loads(one["arguments"])) for one in called] == expected, (text, pieces)

        message = message_blocks.Made(chat_of(pieces, reason, tools), [])
        events = asyncio.run(all_of(message.events()))
        used = [block for block in message.message["content"] if block["type"] == "tool_use"]
        assert [(one["name"], one["input"]) for one in used] == expected, (text, pieces)

        unread: Any = None
        made = ChatResponse("m", None, unread, tools)
        whole = made.choice(0, Completion([], text, reason))
        called = whole["message"].get("tool_calls", [])
        functions = [one["function"] for one in called]
        assert [(one["name"], json.loads(one["arguments"])) for one in functions] == expected, (text, pieces)
        chunks = [
            made.delta(0, piece, None, reason if i == len(pieces) else None)
            for i, piece in enumerate(pieces, 1)
        ]
        json.dumps([*items, *events, whole, *chunks], allow_nan=False).encode()


@pytest.mark.parametrize("name", BY_NAME)
def test_a_damaged_answer_is_one(name: str) -> None:
    check_answers(name, range(MUTANTS))
