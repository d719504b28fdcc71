"""The models that tests of the server share, what they are asked, and what must come."""

from __future__ import annotations

import json
from typing import Any

import httpx
from tfm.refimpl.config import Classify, Pool

from helpers import serving
from helpers.task_models import tiny_reader

MODEL = serving.model()
MODELS = {
    "tiny": MODEL,
    "pool": tiny_reader(Pool()),
    "labels": tiny_reader(Classify(2), ("no", "yes")),
    "relevance": tiny_reader(Classify(1), ("relevant",)),
}
CHAT = {"model": "tiny", "messages": serving.messages(3), "max_tokens": 9, "seed": 4, "temperature": 1.2}
OPTIONS: dict[str, Any] = {"max_new_tokens": 9, "seed": 4, "temperature": 1.2}


def golden() -> str:
    """The answer to CHAT."""
    return str(MODEL.chat(serving.messages(3), **OPTIONS))


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream; the last one says that it is done."""
    lines = [line for line in response.iter_lines() if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]
