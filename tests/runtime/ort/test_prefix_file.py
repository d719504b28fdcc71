"""Prefixes on disk: a text after one that was read is the text without, and files are read as strangers'."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_models
from helpers.exported import exported
from helpers.refused import refused
from helpers.text_strategies import byte_tokenizer
from tfm import runtime
from tfm.refimpl.config import Config
from tfm.refimpl.errors import ArgumentError, ExportError, LimitError
from tfm.runtime.kernels.library import Library, find
from tfm.runtime.ort import kernel_backend, prefix_file
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.tasks import Model
from tfm.runtime.tasks.generate import Prompt, prefix_cache

SHARED = "The quick brown fox jumps over 13 lazy dogs, and nobody knows why. "
QUESTIONS = ("Who?", "Why did the fox do that?")
MODELS: dict[str, tuple[Callable[[], Config], dict[str, str]]] = {
    "whole": (lambda: tiny_models.llama(vocabulary=256, bias=True, context=160), {"quant": "int8"}),
    "codes": (lambda: tiny_models.llama(vocabulary=256, context=160), {"quant": "fp32", "kv": "int8"}),
    "windows": (lambda: tiny_models.mixed_windows(vocabulary=256, context=400), {"quant": "fp32"}),
    "copied": (lambda: tiny_models.recurrent(vocabulary=256, context=160), {"quant": "fp32"}),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bundle of a kind of cache, made once."""
    folder = tmp_path_factory.mktemp("prefixes")

    def made(name: str) -> Path:
        path = folder / name / "bundle"
        if not path.exists():
            exported(folder / name, MODELS[name][0](), texts=[byte_tokenizer()], **MODELS[name][1])
        return path

    return made


def text(model: Model, prompt: str, **options: object) -> tuple[list[int], object]:
    """The tokens that follow, and their log-probabilities to the last digit."""
    stream = model.generate(prompt, max_new_tokens=12, temperature=0.8, seed=3, logprobs=2, **options)
    str(stream)
    return stream.tokens, stream.logprobs


@pytest.mark.parametrize(
    "name",
    ["whole", "windows", *(pytest.param(name, marks=pytest.mark.long) for name in ("codes", "copied"))],
)
def test_a_text_after_a_restored_prefix_is_the_text_before(bundle, name: str, tmp_path: Path) -> None:
    """Off the kernels' path, where bits follow the cut: the run that wrote the file has the same cut."""
    file = tmp_path / "prefix"
    written = text(runtime.load(bundle(name), threads=1), SHARED, prefix=file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    content = file.read_bytes()
    model = runtime.load(bundle(name), threads=1)
    stream = model.generate(SHARED, max_new_tokens=1, prefix=file)
    str(stream)
    assert stream.timings["cached_tokens"] == len(model.prompt(SHARED)) - 1
    assert text(model, SHARED, prefix=file) == written
    assert written[0] == text(model, SHARED)[0]
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_on_kernels_any_prompt_that_begins_alike_has_its_own_text(
    bundle, kernels_on: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = find()
    assert isinstance(library, Library), library
    monkeypatch.setattr(kernel_backend, "find", lambda *_: library)
    monkeypatch.setenv("TFM_CACHE", str(tmp_path / "cache"))
    path, file = bundle("whole"), tmp_path / "prefix"
    for threads in (1, 2):
        model = runtime.load(path, threads=threads)
        assert model.engine.backend.startswith("kernels")
        assert model.engine.same_bits
        for question in QUESTIONS:
            assert text(model, SHARED + question, prefix=file) == text(model, SHARED + question)
        other = model.generate("Something else", max_new_tokens=4, prefix=file)
        assert str(other) == str(model.generate("Something else", max_new_tokens=4))
    monkeypatch.setattr(kernel_backend, "find", find)
    monkeypatch.setenv("TFM_KERNELS", "0")
    with refused(ArgumentError, "'kernels", "ONNX", "Runtime"):
        text(runtime.load(path), SHARED, prefix=file)


def test_a_window_that_dropped_what_it_would_see_reads_the_prompt_again(bundle, tmp_path: Path) -> None:
    model, file = runtime.load(bundle("windows"), threads=1), tmp_path / "prefix"
    text(model, SHARED * 5, prefix=file)
    _, cache = prefix_file.read(file, model.engine)
    assert cache.floor[0] > len(SHARED)
    assert text(model, SHARED, prefix=file) == text(model, SHARED)


def test_what_has_no_such_cache_says_so(bundle, tmp_path: Path) -> None:
    model = runtime.load(bundle("whole"))
    assert text(model, "a", prefix=tmp_path / "none") == text(model, "a")
    assert not (tmp_path / "none").exists()  # a single token is read in any case
    with refused(ExportError, "written", "file"):
        text(model, SHARED, prefix=tmp_path / "nowhere" / "prefix")
    with refused(LimitError, "prefix", "without", "encoder"):
        prefix_cache(model, Prompt([1, 2], [3]), tmp_path / "none")
    shutil.copytree(bundle("whole"), tmp_path / "other")
    text(model, SHARED, prefix=tmp_path / "prefix")
    manifest = tmp_path / "other" / "tfm.json"
    manifest.write_text(manifest.read_text().replace('"tfm": "', '"tfm": "x'))
    with refused(ArgumentError, "another", "bundle"):
        text(runtime.load(tmp_path / "other"), SHARED, prefix=tmp_path / "prefix")


def signed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def with_header(data: bytes, **changes: object) -> bytes:
    """A file with another header, and the digest of it."""
    length = int.from_bytes(data[8:12], "little")
    header = json.dumps(json.loads(data[12 : 12 + length]) | changes).encode()
    return signed(data[:8] + len(header).to_bytes(4, "little") + header + data[12 + length : -32])


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda d: b"", "prefix"),
    "short": (lambda d: d[:30], "prefix"),
    "other": (lambda d: b"GGUF" + d[4:], "prefix"),
    "huge header": (lambda d: d[:8] + b"\xff" * 4 + d[12:], "prefix"),
    "long header": (lambda d: d[:8] + b"\xff\xff\xff\x00" + d[12:], "prefix"),
    "no JSON": (lambda d: d[:12] + b"[" + d[13:], "JSON"),
    "cut": (lambda d: d[:-1], "must have bytes"),
    "padded": (lambda d: d + b"\0", "must have bytes"),
    "changed": (lambda d: d[:-40] + bytes([d[-40] ^ 1]) + d[-39:], "damaged"),
    "one field more": (lambda d: with_header(d, more=1), "header"),
    "ids": (lambda d: with_header(d, tokens=[256]), "tokens"),
    "bools": (lambda d: with_header(d, tokens=[True]), "tokens"),
    "no tokens": (lambda d: with_header(d, tokens=[]), "tokens"),
    "many tokens": (lambda d: with_header(d, tokens=[1] * 10**6), "tokens"),
    "more tokens": (lambda d: with_header(d, tokens=[1] * 399), "store 399"),
    "windows": (lambda d: with_header(d, dropped={"1": 0}), "dropped keys"),
    "list": (lambda d: with_header(d, dropped=[1]), "dropped keys"),
    "negative": (lambda d: with_header(d, dropped={"4": -1, "9": 0}), "dropped"),
    "NaN": (lambda d: signed(d[:-36] + b"\0\0\xc0\x7f"), "finite"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(bundle, name: str, tmp_path: Path) -> None:
    model, file = runtime.load(bundle("windows"), threads=1), tmp_path / "prefix"
    assert isinstance(model.engine, OrtEngine)
    text(model, SHARED, prefix=file)
    change, says = HOSTILE[name]
    file.write_bytes(change(file.read_bytes()))
    with refused(ArgumentError, *says.split()):
        text(model, SHARED, prefix=file)


def test_a_layer_never_holds_more_than_it_has_room_for(bundle, tmp_path: Path) -> None:
    """A file that claims that nothing was dropped of a long text, and has the bytes for it."""
    model, file = runtime.load(bundle("windows"), threads=1), tmp_path / "prefix"
    text(model, SHARED * 5, prefix=file)
    data = file.read_bytes()
    header = json.loads(data[12 : 12 + int.from_bytes(data[8:12], "little")])
    assert any(header["dropped"].values())
    file.write_bytes(with_header(data, dropped=dict.fromkeys(header["dropped"], 0)))
    with refused(ArgumentError, "layer", "store", "tokens"):
        text(model, SHARED * 5, prefix=file)


def test_a_pipe_and_a_folder_are_refused(bundle, tmp_path: Path) -> None:
    model = runtime.load(bundle("whole"))
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with refused(ArgumentError, path):
            text(model, SHARED, prefix=path)


def test_nothing_is_left_of_a_failed_write(bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with refused(ExportError, "written", "space"):
        text(runtime.load(bundle("whole")), SHARED, prefix=tmp_path / "prefix")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "dtype"), [("whole", "float32"), pytest.param("codes", "int8", marks=pytest.mark.long)]
)
def test_codes_and_floats_are_kept_as_they_are(bundle, name: str, dtype: str, tmp_path: Path) -> None:
    model = runtime.load(bundle(name), threads=1)
    text(model, SHARED, prefix=tmp_path / name)
    tokens, cache = prefix_file.read(tmp_path / name, model.engine)
    assert tokens == model.prompt(SHARED)[:-1]
    dropped, arrays = cache.content()
    assert not dropped
    assert {array.dtype for array in arrays} == {np.dtype(dtype)}
    assert all(array.any() for array in arrays)
