"""Decide when a text ends: at a stop token, at a stop string, or after the largest number of new tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from ..config import Config
from ..engine.protocol import too_long
from ..errors import ContextError, LimitError

FinishReason = Literal["stop", "length"]


def limit_new_tokens(config: Config, prompt_tokens: int, max_new_tokens: int) -> int:
    """Return `max_new_tokens`, or fewer if the context has less room after the prompt.

    Raises ContextError if the prompt leaves no room; the error gives both numbers.
    """
    if prompt_tokens < 1:
        raise LimitError("the prompt must have at least one token, got none")
    if prompt_tokens >= config.context:
        raise ContextError(f"the prompt has {prompt_tokens} tokens, but {too_long(config)}")
    return min(max_new_tokens, config.context - prompt_tokens)


def finish_reason(
    token: int, new_tokens: int, stop_ids: Collection[int], max_new_tokens: int
) -> FinishReason | None:
    """Return why the text ends with `token`, or None if it continues.

    `token` is number `new_tokens` of the new tokens. A stop token ends the text and isn't part of it.
    """
    if token in stop_ids:
        return "stop"
    if new_tokens >= max_new_tokens:
        return "length"
    return None


def split_at_stop_string(text: str, stop_strings: Sequence[str]) -> tuple[str, str, bool]:
    """Split a text into the part that can be shown and the part to hold back.

    Returns both parts, and whether a stop string ended the text. The shown part ends before the first stop
    string. The part held back is the longest end of `text` that may be the beginning of a stop string.
    """
    positions = [at for stop in stop_strings if (at := text.find(stop)) >= 0]
    if positions:
        return text[: min(positions)], "", True
    held_back = 0
    for stop in stop_strings:
        for length in range(1, len(stop)):
            if text.endswith(stop[:length]):
                held_back = max(held_back, length)
    return text[: len(text) - held_back], text[len(text) - held_back :], False
