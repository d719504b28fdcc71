"""What stdin is beside texts that are given elsewhere: read, refused or nothing."""

import io
import os
import socket
import sys
import threading
from contextlib import closing

import pytest
from tfm.cli import inputs


@pytest.fixture
def stdin(monkeypatch):
    """Puts an open file in the place of stdin."""

    def put(number):
        file = os.fdopen(number, encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", file)
        return closing(file)

    return put


def a_pipe(data):
    reads, writes = os.pipe()
    os.write(writes, data)
    os.close(writes)
    return reads


def a_file(folder, data):
    (folder / "file").write_bytes(data)
    return os.open(folder / "file", os.O_RDONLY)


def a_terminal():
    _, other = os.openpty()
    return other


@pytest.mark.parametrize(
    ("opened", "piped"),
    [
        (lambda _: a_pipe(b"text"), True),
        (lambda folder: a_file(folder, b"text"), True),
        (lambda _: a_pipe(b""), False),
        (lambda folder: a_file(folder, b""), False),
        (lambda _: os.open(os.devnull, os.O_RDONLY), False),
        (lambda _: os.open(os.devnull, os.O_RDWR), False),  # what a closed stdin is led to
        (lambda _: a_terminal(), False),
    ],
)
def test_what_a_shell_leads_to_stdin_is_seen_and_left_there(stdin, tmp_path, opened, piped, capsys):
    with stdin(opened(tmp_path)):
        assert inputs.is_piped() is piped
        assert not piped or inputs.read_all(None, "text") == "text"
    assert capsys.readouterr().err == ""


def test_a_stdin_without_a_file_leads_no_text(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a notebook's"))
    assert not inputs.is_piped()


def test_a_slow_pipe_is_waited_for_and_that_is_said(stdin, monkeypatch):
    monkeypatch.setattr(inputs, "PATIENCE_S", 0)
    reads, writes = os.pipe()
    said, lines = threading.Event(), []
    monkeypatch.setattr(inputs, "say", lambda line: (lines.append(line), said.set()))

    def write():
        said.wait()
        os.write(writes, b"late")
        os.close(writes)

    writer = threading.Thread(target=write)
    writer.start()
    with stdin(reads):
        assert inputs.is_piped()
        assert inputs.read_all(None, "text") == "late"
    writer.join()
    assert "</dev/null" in lines[0]


def test_a_silent_socket_is_no_text(stdin):
    """Programs of Node.js and ssh connect stdin with one that they leave open."""
    ours, theirs = socket.socketpair()
    with ours, stdin(theirs.detach()):
        assert not inputs.is_piped()
        ours.sendall(b"text")
        assert inputs.is_piped()


def test_a_prompt_goes_on_with_what_is_piped(tfm, bundle):
    options = ("--model", bundle, "--max-new-tokens", 6, "--greedy", "--json")
    both = tfm("generate", "one\n\ntwo\nthree", *options).json["tokens"]
    assert tfm("generate", "one", *options, stdin=b"two\r\nthree\n").json["tokens"] == both
    alone = tfm("generate", "one", *options).json["tokens"]
    assert alone != both
    assert tfm("generate", "one", *options, stdin=b" \n").json["tokens"] == alone
    tfm("generate", "one", *options, stdin=b"\xff").failed(2, "UTF-8")
    tfm("generate", " ", *options, stdin=b"two").failed(2, "empty")


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "--file", "FILE"),
        ("generate", "one", "--batch", "2"),
        ("generate", "--ray", "local", "--file", "FILE", "--out", "out"),
        *(
            (name, "one")
            for name in ("classify", "embed", "fill", "tag", "summarize", "translate", "attention")
        ),
        ("classify", "--file", "FILE"),
        ("answer", "one", "two"),
        ("answer", "one", "--file", "FILE"),
        ("tokenizer", "encode", "one"),
    ],
    ids=" ".join,
)
def test_what_is_piped_to_a_command_that_has_its_texts_is_refused(tfm, tmp_path, command):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "one"}\n')
    given = [str(file) if word == "FILE" else word for word in command]
    tfm(*given, stdin=b"two").failed(2, "stdin", "</dev/null")
