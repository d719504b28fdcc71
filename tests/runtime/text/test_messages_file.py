"""Conversations on disk: what is read is what was written, and nothing else is read or overwritten."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers.refused import refused
from tfm.refimpl.errors import ArgumentError, ExportError, LimitError
from tfm.runtime.text import messages_file
from tfm.runtime.text.messages_file import read_messages, write_messages

MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": 'привет "\n\x1b \\'}]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    write_messages(path, MESSAGES)
    assert read_messages(path) == MESSAGES == json.loads(path.read_text())
    assert "привет" in path.read_text()
    with refused(ExportError, "exists", "--overwrite"):
        write_messages(path, [])
    assert read_messages(path) == MESSAGES
    write_messages(path, MESSAGES[:1], overwrite=True)
    assert read_messages(path) == MESSAGES[:1]


def test_calls_and_results_are_read(tmp_path: Path) -> None:
    function = {"name": "f", "arguments": {"a": 1}}
    call = {"id": "call00000", "type": "function", "function": function}
    said = {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]}
    told = {"role": "tool", "content": "b", "name": "f", "tool_call_id": "call00000"}
    path = tmp_path / "talk.json"
    write_messages(path, [*MESSAGES, said, told])
    assert read_messages(path) == [*MESSAGES, said, told]
    half = {**call, "function": {**function, "arguments": "{}"}}
    wrong = [{**said, "tool_calls": calls} for calls in (5, [5], [{"function": function}], [half])]
    for message in (*wrong, {**said, "reasoning_content": None}, {**told, "name": 5}):
        path.write_text(json.dumps([message]))
        with refused(ArgumentError, "message 0"):
            read_messages(path)


def test_a_failed_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "talk.json"
    write_messages(path, MESSAGES)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with refused(ExportError, "written", "space"):
        write_messages(path, [], overwrite=True)
    assert read_messages(path) == MESSAGES
    assert list(tmp_path.iterdir()) == [path]
    with refused(ExportError, "written", "file"):
        write_messages(tmp_path / "nowhere" / "talk.json", [])


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (b"", ArgumentError, "JSON"),
        (b"\xff\xfe", ArgumentError, "JSON UTF-8"),
        (b"{}", ArgumentError, "list"),
        (b'"hi"', ArgumentError, "list"),
        (b"[" * 99_999, ArgumentError, "nested"),
        (b'["hi"]', ArgumentError, "message 0"),
        (b'[{"role": "user"}]', ArgumentError, "message 0"),
        (b'[{"role": "user", "content": 1}]', ArgumentError, "message 0"),
        (b'[{"role": "user", "role": "user", "content": ""}]', ArgumentError, "twice"),
        (b'[{"role": "user", "content": "", "name": "x"}]', ArgumentError, "message 0 'name'"),
        (b'[{"role": "boss", "content": ""}]', LimitError, "message 0 role"),
        (b"[" + b" " * 300 + b"]", ArgumentError, "300 bytes 302"),
    ],
)
def test_anything_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, kind: type[Exception], words: str
) -> None:
    if len(text) == 302:
        monkeypatch.setattr(messages_file, "LARGEST", 300)
    (tmp_path / "talk.json").write_bytes(text)
    with refused(kind, *words.split()):
        read_messages(tmp_path / "talk.json")


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none"):
        with refused(ArgumentError, path):
            read_messages(path)
