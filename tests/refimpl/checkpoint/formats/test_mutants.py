"""Thousands of damaged files: each is read or refused with a CheckpointError, quickly, never otherwise."""

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from helpers import torch_writer
from helpers.mutators import any_bytes, gguf_field, safetensors_header, torch_pickle
from helpers.refused import refused
from tfm.refimpl.checkpoint.formats.dtypes import KINDS
from tfm.refimpl.checkpoint.formats.gguf import GGUF
from tfm.refimpl.checkpoint.formats.safetensors import SafeTensors, save
from tfm.refimpl.checkpoint.formats.torch_file import TorchFile, _Tensors
from tfm.refimpl.checkpoint.tokenizers.from_gguf.reader import chat_template, tokenizer
from tfm.refimpl.errors import CheckpointError

MUTANTS = 2000


def write_gguf(path: Path) -> None:
    """A small file with every kind of value and several types of tensor."""
    writer, rng = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("llama.rope.freq_base", 10_000.0)
    writer.add_bool("flag", True)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "a", "b", "ab"])
    writer.add_token_scores([0.0, -1.0, -2.0, -3.0])
    writer.add_token_types([2, 1, 1, 1])
    writer.add_bos_token_id(1)
    writer.add_chat_template("{{ messages }}")
    for i, kind in enumerate(["F32", "F16", "Q4_1", "Q8_0", "Q4_K", "Q6_K", "IQ2_XS", "MXFP4"]):
        stored = gguf.GGMLQuantizationType[kind]
        raw = rng.integers(0, 256, (3, 256 // KINDS[kind].size * KINDS[kind].record.itemsize), dtype=np.uint8)
        writer.add_tensor(f"blk.{i}.weight", raw, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_safetensors(path: Path) -> None:
    rng = np.random.default_rng(0)
    save(
        path, {f"layer.{i}": rng.standard_normal((i + 1, 5)).astype(["<f4", "<f2"][i % 2]) for i in range(6)}
    )


def write_torch(path: Path) -> None:
    arrays = {f"layer.{i}": np.arange(600, dtype="<f4").reshape(i + 1, -1) for i in range(3)}
    path.write_bytes(torch_writer.torch_file(arrays))


def read_gguf(path: Path) -> None:
    made = GGUF(path)
    for name in made.names:
        made.load(name)
        made.native(name)
    tokenizer(made.metadata, 4, "x")
    chat_template(made.metadata, "x")


def read_safetensors(path: Path) -> None:
    made = SafeTensors(path)
    for name in made.names:
        made.load(name)


def read_torch(path: Path) -> None:
    made = TorchFile(path)
    for name in made.names:
        made.load(name)


FORMATS: dict[str, tuple[Callable, Callable, Callable, type, tuple[type, str]]] = {
    "gguf": (write_gguf, read_gguf, gguf_field, GGUF, (GGUF, "_tensor")),
    "safetensors": (
        write_safetensors,
        read_safetensors,
        safetensors_header,
        SafeTensors,
        (SafeTensors, "_entry"),
    ),
    "torch": (write_torch, read_torch, torch_pickle, TorchFile, (_Tensors, "_tensor")),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_mutants(tmp_path, monkeypatch, kind):
    write, read, field, _, (reader, parse) = FORMATS[kind]
    path, seen = tmp_path / "x", Counter()
    write(path)
    data, step = path.read_bytes(), getattr(reader, parse)
    reached = set()

    def counting(self, *args):
        reached.add(id_)
        return step(self, *args)

    monkeypatch.setattr(reader, parse, counting)
    for id_ in range(MUTANTS):
        rng = random.Random(id_)
        mutant = (any_bytes if id_ % 2 else field)(data, rng)
        path.write_bytes(mutant)
        start = time.process_time()
        try:
            read(path)
            seen["read"] += 1
        except CheckpointError as error:
            seen["refused" if "\n" not in str(error) else "several lines"] += 1
        except Exception as error:
            raise AssertionError(f"mutant {id_} raised {type(error).__name__}: {error}") from error
        assert time.process_time() - start < 10, f"mutant {id_} hangs"
        path.unlink()  # the mapped bytes live on until the reader is gone
    share = len(reached) / MUTANTS
    print(f"{kind}: {dict(seen)}, {share:.0%} reached the tensors")  # noqa: T201
    assert share >= 0.3, f"only {share:.0%} of the mutants reach the parsing of tensors"
    assert set(seen) == {"read", "refused"}
    assert min(seen.values()) >= 0.02 * MUTANTS, f"mutants should fall on both sides, got {seen}"


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_at_many_offsets(tmp_path, kind):
    write, read, *_ = FORMATS[kind]
    path = tmp_path / "x"
    write(path)
    data = path.read_bytes().rstrip(b"\0")
    for size in sorted({*range(64), *range(0, len(data), max(len(data) // 200, 1))}):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            read(path)
        path.unlink()


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_short_while_it_is_read(tmp_path, kind):
    """Of a mapped file, reading what is gone would end the process."""
    write, _, _, reader, _ = FORMATS[kind]
    path = tmp_path / "x"
    write(path)
    made = reader(path)
    path.write_bytes(b"")
    with refused(CheckpointError, "bytes", "shorter"):
        made.load(made.names[-1])
