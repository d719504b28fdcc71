"""Make the bodies of answers in the form of the OpenAI API: whole answers, or the chunks of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ...refimpl.decoding.logprobs import TokenLogprob
from ..tasks.generate_batch import Completion
from ..text.tokenizer import REPLACEMENT_CHARACTER, Tokenizer
from .tools import Tools

DONE = "data: [DONE]\n\n"
FIELDS = {"text": "content", "thought": "reasoning_content"}  # of a message, by the kinds of events


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)  # json.dumps would make one for each event


def event(value: object) -> str:
    """Return a value as one server-sent event of a stream."""
    return f"data: {_ENCODER.encode(value)}\n\n"


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> dict[str, Any]:
    """Return an answer's `usage`: the numbers of prompt tokens and generated tokens.

    `cached_tokens` is how many of the prompt tokens came from the cache of earlier requests."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


class Response:
    """The fields that all bodies of one answer share: id, time and model."""

    def __init__(self, prefix: str, kind: str, model: str, fingerprint: str | None) -> None:
        self.kind, self.id = kind, f"{prefix}-{secrets.token_hex(12)}"
        self._head = {
            "id": self.id,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def body(self, choices: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        """Return the body of a whole answer."""
        return {**self._head, "object": self.kind, "choices": choices, "usage": usage}


class ChatResponse(Response):
    """The answer to a request to `/v1/chat/completions`."""

    def __init__(self, model: str, fingerprint: str | None, tokenizer: Tokenizer, tools: Tools) -> None:
        super().__init__("chatcmpl", "chat.completion", model, fingerprint)
        self._tokenizer, self._tools = tokenizer, tools
        self._streams: dict[int, _Streamed] = {}  # by the number of the answer

    def choice(self, index: int, answer: Completion) -> dict[str, Any]:
        """Return the entry number `index` of `choices` in a whole answer."""
        thoughts, text, calls = self._tools.read(answer.text, answer.finish_reason)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if thoughts:
            message["reasoning_content"] = thoughts
        if calls:
            message |= {"content": text or None, "tool_calls": [_call(*call) for call in calls]}
        return {
            "index": index,
            "message": message,
            "logprobs": None if answer.logprobs is None else self.logprobs(answer.logprobs),
            "finish_reason": _reason(answer.finish_reason, called=bool(calls)),
        }

    def chunk(self, choices: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        """Return one chunk of a stream. `more` are additional fields."""
        return {**self._head, "object": f"{self.kind}.chunk", "choices": choices, **more}

    def first(self, index: int) -> dict[str, Any]:
        """Return the `choices` entry of a stream's first chunk, which states the assistant's role."""
        return self._delta(index, {"role": "assistant", "content": ""})

    def delta(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob] | None, finish_reason: str | None
    ) -> dict[str, Any] | None:
        """Return the `choices` entry of a later chunk with the new part of the text, or None if the chunk
        would be empty.
        """
        streamed = self._streams.setdefault(index, _Streamed(self._tools))
        delta = streamed.delta(text, finish_reason)
        if not (delta or logprobs or finish_reason):
            return None
        listed = None if logprobs is None else self.logprobs(logprobs)
        return self._delta(index, delta, listed, _reason(finish_reason, called=streamed.called))

    def _delta(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}

    def logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Return the log-probabilities of tokens in the form of the chat API."""
        return {"content": named_logprobs(self._tokenizer, tokens), "refusal": None}


class _Streamed:
    """One answer of a stream, parsed part by part."""

    def __init__(self, tools: Tools) -> None:
        self._parser = tools.parser()
        self._begun = 0
        self.called = False  # whether a call is whole

    def delta(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        """Return the fields that a new part of the text adds to the message."""
        events = self._parser.feed(text)
        if finish_reason is not None:
            events += self._parser.finish(cut=finish_reason != "stop")
        delta: dict[str, Any] = {}
        for kind, piece in events:
            if kind in FIELDS:
                delta[FIELDS[kind]] = delta.get(FIELDS[kind], "") + piece
            elif kind == "name":
                delta.setdefault("tool_calls", []).append({"index": self._begun, **_call(piece, "")})
                self._begun += 1
            elif kind == "arguments":
                self._add(delta.setdefault("tool_calls", []), piece)
            self.called |= kind == "end"
        return delta

    def _add(self, calls: list[dict[str, Any]], piece: str) -> None:
        """Add a piece to the arguments of the last call."""
        last = self._begun - 1
        if not calls or calls[-1]["index"] != last:
            calls.append({"index": last, "function": {"arguments": ""}})
        calls[-1]["function"]["arguments"] += piece


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _reason(finish_reason: str | None, *, called: bool) -> str | None:
    """Return the API's name for the reason why an answer ended."""
    return "tool_calls" if called and finish_reason == "stop" else finish_reason


class Echo(NamedTuple):
    """A prompt that the answer repeats before its own text.

    - `text`: the text of the prompt.
    - `first`: the prompt's first token.
    - `logprobs`: the log-probabilities of the prompt's other tokens; None if the request doesn't ask for
      them.
    """

    text: str
    first: int
    logprobs: Sequence[TokenLogprob] | None


class CompletionResponse(Response):
    """The answer to a request to `/v1/completions`. The chunks of a stream have the same form as a whole
    answer.

    `echoes` contains an `Echo` for each answer, or nothing if the prompts aren't repeated.
    """

    def __init__(
        self, model: str, fingerprint: str | None, tokenizer: Tokenizer, echoes: Sequence[Echo] = ()
    ) -> None:
        super().__init__("cmpl", "text_completion", model, fingerprint)
        self._tokenizer, self._echoes = tokenizer, echoes
        self._lengths: dict[int, int] = {}  # characters so far, by the number of the answer

    def chunk(self, choices: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        """Return one chunk of a stream. `more` are additional fields."""
        return {**self._head, "object": self.kind, "choices": choices, **more}

    def choice(self, index: int, answer: Completion) -> dict[str, Any]:
        """Return the entry number `index` of `choices` in a whole answer."""
        if not self._echoes:
            return self.delta(index, answer.text, answer.logprobs, answer.finish_reason)
        text, first, of_prompt = self._echoes[index]
        if of_prompt is None or answer.logprobs is None:
            return self.delta(index, text + answer.text, None, answer.finish_reason)
        first_text = token_text(self._tokenizer, first)
        self._lengths[index] = len(self._tokenizer.decode([first]))
        made = self.delta(index, text + answer.text, [*of_prompt, *answer.logprobs], answer.finish_reason)
        # Nothing comes before the first token, so nothing says how likely it is.
        for name, value in (
            ("tokens", first_text), ("token_logprobs", None), ("top_logprobs", None), ("text_offset", 0)
        ):  # fmt: skip
            made["logprobs"][name].insert(0, value)
        return made

    def delta(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob] | None, finish_reason: str | None
    ) -> dict[str, Any]:
        """Return the `choices` entry of a chunk with the next part of an answer's text."""
        return {
            "index": index,
            "text": text,
            "logprobs": None if logprobs is None else self._logprobs(index, logprobs),
            "finish_reason": finish_reason,
        }

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        texts = [token_text(self._tokenizer, one.token) for one in tokens]
        offsets = []
        for one in tokens:
            offsets.append(self._lengths.get(index, 0))
            self._lengths[index] = offsets[-1] + len(self._tokenizer.decode([one.token]))
        return {
            "tokens": texts,
            "token_logprobs": [one.logprob for one in tokens],
            "top_logprobs": [
                {token_text(self._tokenizer, token): logprob for token, logprob in one.top} for one in tokens
            ],
            "text_offset": offsets,
        }


def named_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[TokenLogprob], unknown: list[int] | None = None
) -> list[dict[str, Any]]:
    """Return the log-probabilities of tokens by the tokens' texts, each with the likeliest tokens at the same
    position.

    If a token is only a part of a character, its `bytes` field is `unknown`.
    """

    def named(token: int, logprob: float) -> dict[str, Any]:
        text = token_text(tokenizer, token)
        known = unknown if REPLACEMENT_CHARACTER in text else list(text.encode())
        return {"token": text, "logprob": logprob, "bytes": known}

    return [
        {
            **named(one.token, one.logprob),
            "top_logprobs": [named(token, logprob) for token, logprob in one.top],
        }
        for one in tokens
    ]


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Return the text of one token. For a control token, which decodes to an empty text, return the token's
    name.
    """
    return tokenizer.decode([token]) or tokenizer.id_to_token(token)
