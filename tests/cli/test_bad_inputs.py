"""Bad inputs: each is one line on stderr with its exit code, within two seconds, and nothing is written."""

from __future__ import annotations

import gc
import importlib.metadata
import io
import json
import multiprocessing
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import gguf
import numpy as np
import pytest
from helpers import torch_writer
from helpers.exported import rehash
from helpers.hostile_templates import BOMBS
from tfm.cli.main import main
from tfm.runtime.hub.cache_dir import bundle_path
from tfm.runtime.hub.locate import locate
from tfm.runtime.progress import silent


def header(model: Path, change: Callable[[dict], str]) -> None:
    """Rewrite the JSON header of the model's safetensors; the tensors stay."""
    file = model / "model.safetensors"
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    text = change(json.loads(data[8:end])).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


def truncated_gguf(model: Path) -> Path:
    path = model.parent / "short.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.ones((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.write_bytes(path.read_bytes()[:-100])
    return path


def gguf_bomb(model: Path) -> Path:
    """49 bytes that claim an array of 2^63 numbers."""
    path = model.parent / "bomb.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 4, 2**63))
    return path


def shape_that_lies(model: Path) -> Path:
    def change(entries: dict) -> str:
        entries["decoder.norm.weight"]["shape"] = [2**62]
        return json.dumps(entries)

    header(model, change)
    return model


def duplicate_keys(model: Path) -> Path:
    def change(entries: dict) -> str:
        text = json.dumps(entries)
        return text[:-1] + ", " + json.dumps({"decoder.norm.weight": entries["decoder.norm.weight"]})[1:]

    header(model, change)
    return model


def unknown_config_key(model: Path) -> Path:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"attention_sinks": 4}))
    return model


def unread_tensor(model: Path) -> Path:
    def change(entries: dict) -> str:
        last = max(entry["data_offsets"][1] for entry in entries.values())
        return json.dumps(
            entries | {"decoder.extra": {"dtype": "F32", "shape": [1], "data_offsets": [last, last + 4]}}
        )

    header(model, change)
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"\0\0\0\0")
    return model


def nan_weight(model: Path) -> Path:
    file = model / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-4:] = struct.pack("<f", float("nan"))
    file.write_bytes(data)
    return model


def tokenizer_that_panics(model: Path) -> Path:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"] |= {"vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    return model


def tokenizer_that_aborts(model: Path) -> Path:
    """A file on which the library slices inside a character and aborts the process."""
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"] |= {
        "vocab": {"a": 0, "é": 1},
        "merges": [["a", "é"]],
        "continuing_subword_prefix": "x",
    }
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    return model


def weight_map_that_leaves(model: Path) -> Path:
    (model / "model.safetensors").replace(model.parent / "outside.safetensors")
    names = {"decoder.norm.weight": "../outside.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return model


def weights_that_can_run_code(model: Path) -> Path:
    (model / "model.safetensors").rename(model / "model.pt")
    return model


def pickle_that_runs_code(model: Path) -> Path:
    pickle = b"\x80\x02cos\nsystem\n(" + torch_writer.text("touch here") + b"tR."
    (model / "pytorch_model.bin").write_bytes(torch_writer.archive(pickle, {}))
    (model / "model.safetensors").unlink()
    return model


def hqq(model: Path) -> Path:
    unknown_config_key(model)  # how weights are stored is said before what else isn't known
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "hqq"}}))
    return model


BAD = {
    truncated_gguf: (3, "truncated"),
    gguf_bomb: (3, "claims"),
    shape_that_lies: (3, "decoder.norm.weight"),
    duplicate_keys: (3, "decoder.norm.weight"),
    unknown_config_key: (4, "attention_sinks"),
    unread_tensor: (3, "decoder.extra"),
    weights_that_can_run_code: (3, "model.pt code trust"),
    pickle_that_runs_code: (3, "'os.system'"),
    hqq: (4, "quant_method gptq awq"),
    nan_weight: (8, "finite"),
    tokenizer_that_panics: (3, "tokenizer.json"),
    tokenizer_that_aborts: (3, "tokenizer.json"),
    weight_map_that_leaves: (3, "outside.safetensors"),
}
COMMANDS = {
    "generate": lambda path, out: ("generate", "hi", "--model", path),
    "numpy": lambda path, out: ("generate", "hi", "--model", path, "--engine", "numpy"),
    "export": lambda path, out: ("export", path, out),
}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def model(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "work" / "model"))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_a_bad_model_is_one_line_and_nothing_written(tfm, model, tmp_path, make, command):
    path, (code, words) = make(model), BAD[make]
    before = tree(tmp_path / "work")
    ran = tfm(*COMMANDS[command](path, tmp_path / "work" / "out"))
    progress = ran.err.splitlines(keepends=True)[:-1] if make is nan_weight else []
    ran.err = ran.err.removeprefix("".join(progress))  # numbers are looked at as they are written
    ran.failed(code, *words.split())
    assert tree(tmp_path / "work") == before
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("engine", ["onnx", "numpy"])
@pytest.mark.parametrize(
    "name", ["model.onnx", "model.onnx.data", "tokenizer.json", "chat_template.jinja", "golden/tokens.npy"]
)
def test_a_bundle_with_one_flipped_bit_is_refused(tfm, bundle, tmp_path, name, engine):
    broken = Path(shutil.copytree(bundle, tmp_path / "work" / "bundle"))
    data = bytearray((broken / name).read_bytes())
    data[len(data) // 2] ^= 1
    (broken / name).write_bytes(data)
    before = tree(tmp_path / "work")
    ran = tfm("generate", "hi", "--model", broken, "--engine", engine)
    ran.failed(5, name)
    assert tree(tmp_path / "work") == before


@pytest.mark.parametrize("arguments", [("generate", "hi"), ("chat",)])
def test_a_template_that_crashes_is_one_line(tfm, model, arguments):
    (model / "chat_template.jinja").write_text(BOMBS["minus"])
    tfm(*arguments, "--model", model, "--engine", "numpy", stdin=b"hi\n").failed(3, "chat", "template")


@pytest.fixture
def changed(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "work" / "bundle"))


@pytest.mark.parametrize("engine", ["onnx", "numpy"])
@pytest.mark.parametrize("name", ["decoder.norm.weight", "decoder.layers.1.mlp.down.scale"])
def test_a_nan_is_refused_though_the_manifest_knows_it(tfm, changed, name, engine):
    offset = json.loads((changed / "tfm.json").read_text())["tensors"][name]["offset"]
    with (changed / "model.onnx.data").open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack("<f", float("nan")))
    rehash(changed)
    tfm("generate", "hi", "--model", changed, "--engine", engine).failed(8, name, "finite")


def with_loop(graph: bytes) -> bytes:
    """The graph with another operator where a Shape was."""
    return graph.replace(b"\x22\x05Shape", b"\x22\x04Loop\x00", 1)


def not_text(graph: bytes) -> bytes:
    """The graph with a node whose name isn't UTF-8."""
    name = re.search(rb"\x1a.decoder\.layers", graph, re.DOTALL)
    assert name is not None
    at = name.start() + 2  # after the field's number and length
    return graph[:at] + b"\xff\xfe" + graph[at + 2 :]


@pytest.mark.parametrize("harm", [with_loop, not_text])
def test_a_hostile_graph_is_one_line(changed, harm):
    """In a process of its own: ONNX Runtime writes to the terminal by itself."""
    graph = changed / "model.onnx"
    graph.write_bytes(harm(graph.read_bytes()))
    rehash(changed)
    command = [sys.executable, "-m", "tfm.cli.main", "generate", "hi", "--model", str(changed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "model.onnx: " in done.stderr


def test_a_file_without_end(tfm, bundle):
    """/dev/zero gives bytes for ever, as a prompt, as lines and as a text to verify on."""
    tfm("generate", "--file", "/dev/zero", "--model", bundle).failed(9, "prompt", "67108864", "bytes")
    ran = tfm("generate", "--file", "/dev/zero", "--batch", 2, "--model", bundle)
    ran.failed(9, "prompt", "268435456", "bytes")
    tfm("verify", bundle, "--text", "/dev/zero").failed(10, "16777216", "bytes")


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user may search."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def as_nobody(arguments: Sequence[str], result: Connection, cache: str = "/nonexistent") -> None:
    """Run a command as a user who owns nothing, and send its exit code and stderr."""
    # A session that is the parent's garbage would wait for its threads, which this process hasn't.
    gc.freeze()
    os.environ["TFM_CACHE"] = cache
    sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    result.send((main([*arguments]), sys.stderr.getvalue()))


@pytest.mark.parametrize(
    ("part", "mode"),
    [
        (".", 0),
        (".", 0o444),
        ("..", 0),
        ("tfm.json", 0),
        ("model.onnx.data", 0),
        ("config.json", 0),
    ],
)
def test_what_may_not_be_read_is_one_line(tfm, bundle, checkpoint, shared_folder, part, mode):
    for source, code in ((bundle, 5), (checkpoint, 3)):
        model = Path(shutil.copytree(source, shared_folder / source.parent.name / "model"))
        assert tfm("inspect", model).code == 0  # its modules are imported now
        if not (model / part).exists():
            continue
        os.chmod(model / part, mode)
        reports, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)
        command = ("generate", "hi", "--model", str(model), "--engine", "numpy")
        process = multiprocessing.get_context("fork").Process(target=as_nobody, args=(command, theirs))
        process.start()
        theirs.close()  # a process that dies ends the wait
        got, message = reports.recv()
        process.join()
        os.chmod(model / part, 0o755)
        assert got in (code, 3), message  # what can't be looked into isn't known to be a bundle
        assert message.count("\n") == 1, message
        assert "Permission denied" in message, message


def test_a_read_only_cache_serves_what_it_holds(tfm, bundle, checkpoint, shared_folder, monkeypatch):
    """And says what to do where something would have to be written."""
    model = str(shutil.copytree(checkpoint, shared_folder / "model"))
    cache = shared_folder / "cache"
    monkeypatch.setenv("TFM_CACHE", str(cache))
    shutil.copytree(bundle, bundle_path(locate(model, silent), "int8", "ort-cpu"))
    for folder in (cache, cache / "bundles"):
        os.chmod(folder, 0o555)
    # The environment may lie in a folder of its owner's alone: metadata would be read, modules are imported.
    tfm_version = importlib.metadata.version("tfm-cli")
    monkeypatch.setattr(importlib.metadata, "version", lambda _: tfm_version)
    ended = []
    for quant in ("int8", "int4"):
        reports, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)
        command = ("generate", "hi", "--model", model, "--engine", "numpy", "--raw", "--quant", quant)
        arguments = ((*command, "--max-new-tokens", "2"), theirs, str(cache))
        process = multiprocessing.get_context("fork").Process(target=as_nobody, args=arguments)
        process.start()
        theirs.close()  # a process that dies ends the wait
        ended.append(reports.recv())
        process.join()
    assert ended[0][0] == 0, ended
    assert "export" not in ended[0][1]
    assert ended[1][0] == 7, ended
    assert re.search(f"{cache} .*TFM_CACHE", ended[1][1])


def test_the_bomb_is_49_bytes(tmp_path):
    assert gguf_bomb(tmp_path / "x").stat().st_size == 49


def test_a_panic_prints_nothing_of_its_own(model, tmp_path):
    """Run in another process, since Rust writes to the process's stderr."""
    for make in (tokenizer_that_panics, tokenizer_that_aborts):
        command = [
            sys.executable,
            "-m",
            "tfm.cli.main",
            "generate",
            "hi",
            "--engine",
            "numpy",
            "--model",
            str(make(model)),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.count("\n") == 1, done.stderr
