"""A conversation on disk: the list of messages that a chat template takes, as JSON."""

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


def read_messages(path: Path) -> list[Message]:
    """The messages of a file.

    ArgumentError for a file that isn't there, is too large, or holds anything else; LimitError for a role
    that no template knows.
    """
    messages = strict_json.parse(read_file(path, LARGEST, ArgumentError), str(path), ArgumentError)
    check_messages(messages)
    for i, message in enumerate(messages):
        if other := message.keys() - {"role", "content"}:
            raise ArgumentError(f"message {i} must have a role and content alone, got {min(other)!r:.40} too")
    return messages


def write_messages(path: Path, messages: Sequence[Message], *, overwrite: bool = False) -> None:
    """Write the messages, completely or not at all.

    ExportError where the file can't be written, or is there already and `overwrite` isn't set.
    """
    if path.exists() and not overwrite:
        raise ExportError(f"{path} exists: name another file, or say --overwrite")
    text = json.dumps([dict(message) for message in messages], ensure_ascii=False, indent=1) + "\n"
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise ExportError(f"{path} can't be written: {error.strerror}") from None
