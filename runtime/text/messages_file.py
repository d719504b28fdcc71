"""Read and write a conversation as a JSON file: the list of messages that a chat template takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...refimpl.checkpoint.formats import strict_json
from ...refimpl.checkpoint.formats.file_bytes import read_file
from ...refimpl.checkpoint.formats.whole_file import write_whole
from ...refimpl.errors import ArgumentError, ExportError
from .chat_template import Message, check_messages

LARGEST = 16 * 2**20  # bytes of a file
# What a message may have beside its content, by its role.
MORE = {"assistant": {"tool_calls", "reasoning_content"}, "tool": {"name", "tool_call_id"}}


def read_messages(path: Path) -> list[Message]:
    """Return the messages of a file.

    Raises ArgumentError for a file that is missing or too large, or that contains anything other than
    messages. Raises LimitError for a role that no template knows.
    """
    messages = strict_json.parse(read_file(path, LARGEST, ArgumentError), str(path), ArgumentError)
    check_messages(messages)
    for i, message in enumerate(messages):
        if other := message.keys() - {"role", "content"} - MORE.get(message["role"], set()):
            raise ArgumentError(
                f"message {i} of role {message['role']} can't have the key {min(other)!r:.40}: remove this "
                "key"
            )
        calls = message.get("tool_calls", [])
        texts = [message[name] for name in message.keys() - {"tool_calls"}]
        if not (isinstance(calls, list) and all(map(_is_call, calls)) and all(map(_is_text, texts))):
            raise ArgumentError(
                f"message {i}: each field must be a text, and tool_calls a list of objects like {CALL}, "
                f"got {message!r:.200}"
            )
    return messages


CALL = '{"id": "call00000", "type": "function", "function": {"name": "f", "arguments": {}}}'


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_call(value: object) -> bool:
    """Return whether a value is a tool call in the form that templates read."""
    match value:
        case {"id": str(), "function": {"name": str(), "arguments": dict()}}:
            return True
    return False


def write_messages(path: Path, messages: Sequence[Message], *, overwrite: bool = False) -> None:
    """Write the messages to a file, completely or not at all.

    Raises ExportError if the file can't be written, or if it exists and `overwrite` isn't set.
    """
    if path.exists() and not overwrite:
        raise ExportError(f"{path} exists: choose another file, or add --overwrite")
    text = json.dumps([dict(message) for message in messages], ensure_ascii=False, indent=1) + "\n"
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise ExportError(f"{path} can't be written: {error.strerror}") from None
