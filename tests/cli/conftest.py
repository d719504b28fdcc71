"""A tiny model on byte tokens, its bundle, and the command line run in this process."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tokenizers
from helpers import tiny_models
from helpers.refused import pattern
from tfm.cli.main import main
from tfm.refimpl.checkpoint.open import save_checkpoint

CONTROL = ("<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> str:
    """A byte-level BPE without merges: 256 bytes and two control tokens."""
    bytes_ = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    library_tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({b: i for i, b in enumerate(bytes_)}, []))
    library_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    library_tokenizer.decoder = tokenizers.decoders.ByteLevel()
    library_tokenizer.add_special_tokens(list(CONTROL))
    return library_tokenizer.to_str()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny model of model_type tfm."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    config = tiny_models.llama(vocabulary=256 + len(CONTROL), width=64, context=16384)
    save_checkpoint(path, config, tiny_models.weights(config), tokenizer(), TEMPLATE)
    return path


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its int8 bundle."""
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    assert main(["export", str(checkpoint), str(path), "--no-verify"]) == 0
    return path


@dataclass
class Ran:
    """The result of a command: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """stdout, which must be one JSON value and nothing else."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def failed(self, code: int, *parts: object) -> None:
        """Assert that it failed with this code, nothing on stdout, and one line on stderr with these
        parts as whole words, in this order."""
        assert (self.code, self.out) == (code, ""), self
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("tfm-cli: "), self.err
        assert "Traceback" not in self.err
        assert re.search(pattern(*parts), self.err), (parts, self.err)


@pytest.fixture
def environment() -> Iterator[None]:
    """Restores the environment: a command may set threads for its libraries."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def tfm(
    environment: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ran]:
    """Runs tfm-cli in this process, with an empty cache and with the given bytes on stdin."""
    monkeypatch.delenv("TFM_RAISE", raising=False)
    monkeypatch.setenv("TFM_CACHE", str(tmp_path / "cache"))

    def run(*arguments: object, stdin: bytes = b"") -> Ran:
        capsys.readouterr()
        with tempfile.TemporaryFile("w+b") as piped, io.TextIOWrapper(piped) as file:
            piped.write(stdin)
            piped.seek(0)
            monkeypatch.setattr(sys, "stdin", file)
            code = main([str(a) for a in arguments])
        return Ran(code, *capsys.readouterr())

    return run
