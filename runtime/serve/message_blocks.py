"""Make the blocks of an answer of `/v1/messages`, and the stream's events for these blocks."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

from .chat import Chat

STARTS = {
    "text": {"type": "text", "text": ""},
    "thought": {"type": "thinking", "thinking": "", "signature": ""},
}
DELTAS = {
    "text": ("text_delta", "text"),
    "thought": ("thinking_delta", "thinking"),
    "arguments": ("input_json_delta", "partial_json"),
}


class Made:
    """An answer of `/v1/messages` in progress: the message so far, and the events that a stream sends for
    it.
    """

    def __init__(self, chat: Chat[Any], stops: list[str]) -> None:
        self._chat, self._stops = chat, stops
        self._text = ""  # of the last block
        self.message: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": chat.served.name,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(),
        }

    async def whole(self) -> dict[str, Any]:
        """Wait until the message is complete, and return it. An invalid tool call is left out."""
        async for _ in self.events():
            pass
        return self.message

    async def events(self) -> AsyncIterator[Mapping[str, Any]]:
        """Yield all events of the answer's stream."""
        blocks = self.message["content"]
        yield {"type": "message_start", "message": {**self.message, "content": []}}
        kept, open_kind = [], ""
        async for kind, piece in self._chat.events():
            if open_kind and (kind == "name" or kind not in (open_kind, "arguments")):
                if kind != "broken":
                    kept.append(self._ended(open_kind))
                open_kind = ""
                yield {"type": "content_block_stop", "index": len(blocks) - 1}
            if kind in ("end", "broken"):
                continue
            if not open_kind:
                open_kind = "arguments" if kind == "name" else kind
                self._text = ""
                called = {"type": "tool_use", "id": f"toolu_{secrets.token_hex(12)}", "name": piece}
                blocks.append({**STARTS[kind]} if kind in STARTS else {**called, "input": {}})
                start = {"index": len(blocks) - 1, "content_block": {**blocks[-1]}}
                yield {"type": "content_block_start", **start}
            if kind != "name":
                self._text += piece
                of_kind, field = DELTAS[kind]
                delta = {"type": of_kind, field: piece}
                yield {"type": "content_block_delta", "index": len(blocks) - 1, "delta": delta}
        if open_kind:
            if open_kind != "arguments":
                kept.append(self._ended(open_kind))
            yield {"type": "content_block_stop", "index": len(blocks) - 1}
        self.message |= {"content": kept, "usage": self._usage(), **self._stop(kept)}
        reasons = {key: self.message[key] for key in ("stop_reason", "stop_sequence")}
        yield {"type": "message_delta", "delta": reasons, "usage": self._usage()}
        yield {"type": "message_stop"}

    def _ended(self, kind: str) -> dict[str, Any]:
        """Return the last block, which is now complete."""
        block = self.message["content"][-1]
        if kind == "arguments":
            return {**block, "input": json.loads(self._text)}
        return {**block, DELTAS[kind][1]: self._text}

    def _stop(self, blocks: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the fields that say why the answer ended."""
        reason, sequence = "end_turn", None
        if self._chat.finish_reason == "length":
            reason = "max_tokens"
        elif (sequence := self._chat.stopped_by(self._stops)) is not None:
            reason = "stop_sequence"
        elif any(block["type"] == "tool_use" for block in blocks):
            reason = "tool_use"
        return {"stop_reason": reason, "stop_sequence": sequence}

    def _usage(self) -> dict[str, Any]:
        cached = self._chat.answers.cached_tokens
        return {
            "input_tokens": self._chat.prompt_tokens - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": self._chat.new_tokens,
        }
