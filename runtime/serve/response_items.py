"""Make the items of an answer of `/v1/responses`, and the stream's events for these items.

Streamed and whole answers come from the same events: the last event contains the whole answer.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from .chat import Chat
from .errors import body_of
from .responses import named_logprobs

DELTAS = {"text": "output_text", "thought": "reasoning_text", "arguments": "function_call_arguments"}
EXTRAS: dict[str, dict[str, Any]] = {
    "text": {"content_index": 0},
    "thought": {"content_index": 0},
    "arguments": {},
}


class Made:
    """An answer of `/v1/responses` in progress: its items so far, and the events that a stream sends for
    them.
    """

    def __init__(self, chat: Chat[Any], namespaces: Mapping[str, str], **told: Any) -> None:
        """Begin an answer. `told` are fields of the request that the answer repeats.

        `namespaces` is a dict from the name by which the model calls a function to the name of the
        function's group."""
        self._chat, self._sequence, self._text = chat, 0, ""
        self._logprobs: list[dict[str, Any]] = []  # of the last item's text
        self._namespaces = namespaces
        self.id = _id("resp")
        self.output: list[dict[str, Any]] = []
        self.response: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "model": chat.served.name,
            "output": self.output,
            "error": None,
            "incomplete_details": None,
            "usage": None,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "text": {"format": {"type": "text"}},
            "truncation": "disabled",
            "metadata": {},
            **told,
        }

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._sequence += 1
        return {"type": f"response.{kind}", "sequence_number": self._sequence - 1, **fields}

    def _of_item(self, kind: str, **fields: Any) -> dict[str, Any]:
        place = {"item_id": self.output[-1]["id"], "output_index": len(self.output) - 1}
        return self._event(kind, **place, **fields)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all events of the answer's stream. The last event contains the whole answer."""
        for kind in ("created", "in_progress"):
            yield self._event(kind, response={**self.response, "output": []})
        open_kind = ""  # of the item that is being written
        async for kind, piece in self._chat.events():
            if open_kind and (kind == "name" or kind not in (open_kind, "arguments")):
                for event in self._ended(open_kind, broken=kind == "broken"):
                    yield event
                open_kind = ""
            if kind in ("end", "broken"):
                continue
            if not open_kind:
                open_kind = "arguments" if kind == "name" else kind
                for event in self._begun(kind, piece):
                    yield event
            if kind != "name":
                self._text += piece
                extras = {**EXTRAS[kind]}
                if kind == "text":
                    tokenizer = self._chat.served.model.model.text
                    extras["logprobs"] = named_logprobs(tokenizer, self._chat.logprobs, [])
                    self._logprobs += extras["logprobs"]
                yield self._of_item(f"{DELTAS[kind]}.delta", delta=piece, **extras)
        if not self.output:
            for event in self._begun("text", ""):
                yield event
            open_kind = "text"
        if open_kind:
            for event in self._ended(open_kind, broken=open_kind == "arguments"):
                yield event
        yield self._finished()

    def _begun(self, kind: str, name: str) -> list[dict[str, Any]]:
        """Begin a new item, and return its first events."""
        self._text, self._logprobs = "", []
        item: dict[str, Any] = {"status": "in_progress"}
        match kind:
            case "name":
                item |= {"type": "function_call", "id": _id("fc"), "call_id": _id("call")}
                if space := self._namespaces.get(name):
                    item |= {"namespace": space}
                    name = name.removeprefix(f"{space}__")
                item |= {"name": name, "arguments": ""}
            case "thought":
                item |= {"type": "reasoning", "id": _id("rs"), "summary": [], "content": []}
            case _:
                item |= {"type": "message", "id": _id("msg"), "role": "assistant", "content": []}
        self.output.append(item)
        told = [self._event("output_item.added", output_index=len(self.output) - 1, item={**item})]
        if kind != "name":
            told.append(self._of_item("content_part.added", content_index=0, part=_part(kind, "", [])))
        return told

    def _ended(self, kind: str, *, broken: bool) -> list[dict[str, Any]]:
        """End the last item, and return its last events. A broken call isn't part of the answer."""
        item, told = self.output[-1], []
        item["status"] = "incomplete" if broken else "completed"
        if kind == "arguments":
            item["arguments"] = self._text
            if not broken:
                told.append(
                    self._of_item("function_call_arguments.done", name=item["name"], arguments=self._text)
                )
        else:
            part = _part(kind, self._text, self._logprobs)
            item["content"] = [part]
            extras = {**EXTRAS[kind], **({"logprobs": self._logprobs} if kind == "text" else {})}
            told.append(self._of_item(f"{DELTAS[kind]}.done", text=self._text, **extras))
            told.append(self._of_item("content_part.done", content_index=0, part=part))
        told.append(self._event("output_item.done", output_index=len(self.output) - 1, item={**item}))
        return told

    def _finished(self) -> dict[str, Any]:
        cut = self._chat.finish_reason == "length"
        self.response["status"] = "incomplete" if cut else "completed"
        self.response["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        self.response["output"] = [
            item for item in self.output if item["type"] != "function_call" or item["status"] == "completed"
        ]
        cached = self._chat.answers.cached_tokens
        self.response["usage"] = {
            "input_tokens": self._chat.prompt_tokens,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": self._chat.new_tokens,
            "output_tokens_details": {"reasoning_tokens": self._chat.thought_tokens},
            "total_tokens": self._chat.prompt_tokens + self._chat.new_tokens,
        }
        return self._event(self.response["status"], response=self.response)

    def failed(self, error: BaseException) -> Mapping[str, Any]:
        """Return the event of a stream that reports an error."""
        told = body_of(error)["error"]
        made = {key: told[key] for key in ("code", "message", "param")}
        return {**self._event("failed"), "type": "error", **made}


def _part(kind: str, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    if kind == "thought":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"
