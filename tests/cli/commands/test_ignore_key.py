"""`--ignore-key`, and what bundles and certificates state of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tfm.runtime.bundle.manifest import load


@pytest.fixture
def odd(checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny model, with a key that nobody knows."""
    path = tmp_path / "tiny"
    shutil.copytree(checkpoint, path)
    stated = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**stated, "odd": 1}))
    return path


def test_a_bundle_and_its_certificate_say_which_keys_were_ignored(tfm, odd, tmp_path):
    out = tmp_path / "out"
    tfm("export", odd, out).failed(4, "'odd'", "--ignore-key", "odd")
    tfm("export", odd, out, "--ignore-key", "odd")
    assert load((out / "tfm.json").read_bytes(), "").source.ignored_keys == ("odd",)
    assert any("odd" in note for note in json.loads((out / "certificate.json").read_text())["notes"])
    assert json.loads(tfm("inspect", out, "--json").out)["ignored_keys"] == ["odd"]
    assert tfm("verify", out, "--source", odd).code == 0  # it knows by itself
    tfm("inspect", out, "--ignore-key", "odd").failed(3, "--ignore-key")


def test_commands_pass_the_keys_on(tfm, odd, tmp_path):
    text = tmp_path / "text"
    text.write_text("hello hello hello")
    tasks = ("generate", "attention", "classify", "embed", "fill", "summarize", "tag", "translate")
    commands = [(task, "hello", "--model", odd) for task in tasks]
    commands += [("bench", "--model", odd), ("chat", "--model", odd), ("context", odd, "--text", text)]
    commands += [("answer", "who?", "hello", "--model", odd), ("inspect", odd)]
    commands += [("serve", odd, "--port", 0)]
    for command in commands:
        tfm(*command).failed(4, "--ignore-key", "odd")
        tfm(*command, "--ignore-key", "odd", "--ignore-key", "even").failed(4, "'even'")


def test_of_several_models_on_a_server_none_has_the_key(tfm, odd):
    tfm("serve", odd, "demo-tag", "--ignore-key", "odd", "--port", 0).failed(2, "model")


def test_what_is_computed_without_a_key_is_kept_apart(tfm, odd):
    asked = ("generate", "hello", "--max-new-tokens", 2, "--greedy", "--model", odd)
    told = tfm(*asked, "--ignore-key", "odd")
    assert told.code == 0
    assert told.out == tfm(*asked, "--ignore-key", "odd", "--engine", "numpy").out
    tfm(*asked).failed(4, "--ignore-key", "odd")  # the bundle in the cache is another model's
